"""Distillation by Pearson correlation: Cao, Zhang, Gao, Cheng, Cheng, Cheng, "PKD: General Distillation Framework
for Object Detectors via Pearson Correlation Coefficient", NeurIPS 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .inputs import full_precision, prepare, rows_of


class Pearson(nn.Module):
    """Half the mean squared difference of two features whose channels were each given mean 0 and deviation 1.

        S^ = (S - mean(S)) / (std(S) + eps)      the same for T; mean and std of each channel over all N cells
        value = mean over the N cells and C channels of  (S^ - T^)^2 / 2

    N counts the cells of the whole batch, B * H * W of maps or R rows, and std divides by N - 1, as the
    authors' code does. With r_c the correlation of channel c of both sides over the N cells,

        value = (N - 1) / N * mean over channels of (1 - r_c)

    between 0 and 2. Unchanged when a channel of either side is multiplied by a positive number and shifted,
    up to `eps`. A constant channel is zero after normalisation, and costs 1/2 where the other side's is not.

    The statistics are those of the batch that the process sees, as in the authors' code, and so images are
    not averaged one by one: an image brighter than another in a channel counts as a pattern. With `valid`,
    they and the mean are over the valid cells of all images together; a large image has more of them. An image
    without a valid cell does not count at all.

    Zero with zero gradient at S = T. The teacher's side is detached, arithmetic is in float32, no cell gives
    0, and so does a single one, which has no spread. The gradient is at most of the order 1 / eps.

    Source: open-mmlab/mmrazor (90c7af1), `mmrazor/models/losses/pkd_loss.py` `PKDLoss`, on the outputs of the
    FPN: weight 6 for each of four levels of Faster R-CNN, 10 for RetinaNet.

    Args:
        eps: added to the deviation.
    """

    def __init__(self, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare two equal shapes (R, C) or (B, C, H, W); see the class. Returns a scalar."""
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            ours, theirs = rows_of(student), rows_of(teacher)
            if valid is not None:
                inside = valid.flatten().nonzero()[:, 0]
                ours, theirs = ours[inside], theirs[inside]
            if ours.numel() == 0:
                return student.sum() * 0
            return (self._standardised(ours) - self._standardised(theirs)).square().mean() / 2

    def _standardised(self, rows: Tensor) -> Tensor:
        """(N, C) with mean 0 and deviation 1 in each column."""
        centred = rows - rows.mean(0)
        deviation = torch.linalg.vector_norm(centred, dim=0) / max(1, len(rows) - 1) ** 0.5
        return centred / (deviation + self.eps)
