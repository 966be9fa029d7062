"""Channel-wise distillation: Shu, Liu, Gao, Yan, Shen, "Channel-wise Knowledge Distillation for Dense
Prediction", ICCV 2021.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arithmetic import divergence
from .inputs import full_precision, prepare


class ChannelWise(nn.Module):
    """Divergence of two maps, each channel of which is made a distribution over the cells.

        p_c = softmax over the cells of T_c / t        q_c = softmax over the cells of S_c / t        t: temperature
        value = t^2 * mean over images b and channels c of  sum over cells of p * log(p / q)

    That is a sum over the cells, divided by B * C. It asks where a channel is high, not how high: a constant
    added to a channel changes nothing. Its size does not depend on that of the map.

    The gradient for a student value is (t / (B C)) (q - p). Zero with zero gradient at S = T. With `valid`,
    the softmax is over the valid cells of each image and cells of the padding have no probability, as if the
    map had been cropped; an image without a valid cell counts as zero. The teacher's side is detached,
    arithmetic is in float32, no sample gives 0. Maps only: rows have no cells.

    Source: irfanICMLL/TorchDistiller (78bac7c), `SemSeg-distill/utils/criterion.py` `CriterionCWD` with
    norm_type "channel" and divergence "kl": for the logits of segmentation weight 3 and temperature 4. The
    authors' detection code, pppppM/mmdetection-distiller (7a8a130), has the cross-entropy - sum p log q in
    place of the divergence, which is the same gradient and another value; temperature 1 and weight 5 on four
    levels of the FPN of RetinaNet. open-mmlab/mmrazor (90c7af1) `ChannelWiseDivergence` is this value, with
    temperature 1 and weight 10 for Faster R-CNN. Not implemented: the variants of `CriterionCWD` that
    normalise over channels or compare means.

    Args:
        temperature: t, above zero; a higher one looks beyond the peaks.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"The temperature of ChannelWise must be above 0, not {temperature}.")
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare two equal shapes (B, C, H, W); see the class. Returns a scalar."""
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid, rows=False)
            if student.numel() == 0:
                return student.sum() * 0
            log_q, log_p = self._log_softmax(student, valid), self._log_softmax(teacher, valid)
            terms = divergence(log_p, log_q)
            if valid is not None:
                terms = terms.masked_fill(~valid.flatten(2), 0)
            return terms.sum(2).mean() * self.temperature**2

    def _log_softmax(self, feature: Tensor, valid: Tensor | None) -> Tensor:
        """(B, C, H, W) to log-probabilities (B, C, H*W); padding gets the lowest number instead of -inf."""
        feature = feature / self.temperature
        if valid is not None:
            feature = feature.masked_fill(~valid, torch.finfo(feature.dtype).min)
        return F.log_softmax(feature.flatten(2), dim=2)

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"temperature={self.temperature}"
