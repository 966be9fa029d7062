"""Flow of the solution procedure: Yim, Joo, Bae, Kim, "A Gift from Knowledge Distillation: Fast Optimization,
Network Minimization and Transfer Learning", CVPR 2017.

What is compared is not a feature but how one feature of a network follows from another: the inner products of
their channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .inputs import check_valid, full_precision, prepare

Reduction = Literal["sum", "mean"]
Maps = Sequence[Tensor]
Masks = Sequence[Tensor | None]


class FSP(nn.Module):
    """Squared distance of the two networks' FSP matrices, one matrix per network from two of its maps.

        G_ij = (1 / (h w)) * sum over the h w cells of  F1_i * F2_j        G (m, n), see `matrix`

        "sum"     sum over i, j of (G_s - G_t)_ij^2, mean over the B images: the squared Frobenius norm (paper)
        "mean"    that divided by m n, the mean over all elements; some public implementations

    The two differ by m n (512 for 16 x 32 channels), so a weight belongs to one of them. `student` and `teacher`
    are lists of two maps (B, m, H1, W1) and (B, n, H2, W2); m and n must be the teacher's, because the paper has no
    adapter. The paper takes the first and the last layer of a group of blocks of one spatial size, one pair per
    group; several pairs are several terms with equal weights.

    Zero with zero gradient at equal maps. Multiplying all maps of both networks by s multiplies the value by s^4.
    With `valid`, padded cells count neither in the pooling nor in the mean over cells, and the images are averaged:
    as if each map had been cropped, where pooling the cropped map has the same bins (its size is a whole multiple);
    else the bins are those of the padded map, which keep the two maps' cells in register. The teacher's side is
    detached, arithmetic is in float32, no image and no cell give 0.

    Sources: the matrix is AberHu/Knowledge-Distillation-Zoo (65470c8) `kd_losses/fsp.py` `fsp_matrix`, tested
    against it; no code of the paper's authors was found. Where public codes disagree the paper is followed:
    max-pooling (not average pooling, not by the height alone) and the squared norm (not the norm of each column).
    HobbitLong/RepDistiller (b84f547) is "mean" with average pooling. Not implemented: permuting the teacher's matrix
    for an ensemble of students.

    Args:
        reduction: "sum" or "mean".
    """

    def __init__(self, reduction: Reduction = "sum") -> None:
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise ValueError(f'FSP reduces by "sum" or "mean", not by {reduction!r}.')
        self.reduction = reduction

    @staticmethod
    def matrix(first: Tensor, second: Tensor, valid: Masks | None = None) -> Tensor:
        """Return G (B, m, n) of two maps of one network, in float32 at least.

        Where the maps differ in height or width, the larger is max-pooled to the smaller, each axis by itself
        (adaptive bins: sizes need not be multiples). Each map is divided by sqrt(h w) before the product, so that no
        sum is larger than the result.

        Args:
            first: (B, m, H1, W1).
            second: (B, n, H2, W2), of the same images.
            valid: the mask (B, 1, H, W) or None of each. A pooled cell is valid if any of its cells is; h w becomes
                the number of cells that are valid in both. An image without one has G = 0.

        Raises:
            ValueError: not two maps of the same images, or a mask that does not fit its map.
        """
        if first.dim() != 4 or second.dim() != 4 or first.shape[0] != second.shape[0]:
            raise ValueError(
                "FSP takes two maps (B, C, H, W) of the same images, "
                f"not {tuple(first.shape)} and {tuple(second.shape)}."
            )
        size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
        masks = (None, None) if valid is None else valid
        with full_precision(first):
            first, inside = _pooled(first, size, masks[0])
            second, also_inside = _pooled(second, size, masks[1])
            if inside is None or also_inside is None:
                inside = also_inside if inside is None else inside
            else:
                inside = inside & also_inside
            if inside is None:
                root: Tensor | float = max(size[0] * size[1], 1) ** 0.5
            else:
                first, second = first.masked_fill(~inside, 0), second.masked_fill(~inside, 0)
                root = inside.sum(dim=(2, 3), keepdim=True).clamp(min=1).to(first.dtype).sqrt()
            return (first / root).flatten(2) @ (second / root).flatten(2).mT

    def forward(self, student: Maps, teacher: Maps, valid: Masks | None = None) -> Tensor:
        """Compare the matrices of two maps a side; see the class. Returns a scalar.

        Raises:
            ValueError: not two maps a side, channels or sizes that differ between the sides, a mask that does not fit.
        """
        _check_channels(student, teacher)
        masks = (None, None) if valid is None else valid
        with full_precision(student[0]):
            sides = [
                prepare(s, t, mask, rows=False) for s, t, mask in zip(student, teacher, masks, strict=True)
            ]
            (first, its_first), (second, its_second) = sides
            if first.numel() == 0 or second.numel() == 0:
                return first.sum() * 0 + second.sum() * 0
            difference = self.matrix(first, second, masks) - self.matrix(its_first, its_second, masks)
            per_image = difference.square().sum(dim=(1, 2))
            return (per_image if self.reduction == "sum" else per_image / difference[0].numel()).mean()

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"reduction={self.reduction!r}"


def _pooled(feature: Tensor, size: tuple[int, int], valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Max-pool a map and its mask to `size`; padding neither wins a maximum nor leaves a value."""
    feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
    if valid is not None:
        check_valid(valid, feature)
        feature = feature.masked_fill(~valid, torch.finfo(feature.dtype).min)
    if tuple(feature.shape[2:]) != size:
        feature = F.adaptive_max_pool2d(feature, size)
        valid = None if valid is None else F.adaptive_max_pool2d(valid.to(feature.dtype), size) > 0
    return (feature if valid is None else feature.masked_fill(~valid, 0)), valid


def _check_channels(student: Maps, teacher: Maps) -> None:
    if len(student) != 2 or len(teacher) != 2:
        raise ValueError(
            f"FSP compares two maps of the student with two of the teacher, not {len(student)} with {len(teacher)}."
        )
    own, its = ([m.shape[1] if m.dim() > 1 else 0 for m in side] for side in (student, teacher))
    if own != its:
        adapters = " and ".join(f"Conv1x1({s}, {t})" for s, t in zip(own, its, strict=True) if s != t)
        raise ValueError(
            f"The student's maps have {own} channels, the teacher's {its}; the paper's FSP needs equal ones. Not in "
            f'the paper: {adapters} in front of the student\'s side (method FSP: ADAPTER: "linear").'
        )
