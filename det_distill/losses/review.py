"""ReviewKD: Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021.

The loss between the fused levels and the teacher's. The fusion is the adapter `det_distill.adapters.ReviewFusion`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .inputs import full_precision, prepare


class HierarchicalContext(nn.Module):
    """HCL: mean squared difference of maps and of what is left of them after pooling, summed over levels.

        d_n     = F_s - F_t of level n
        value_n = (mean d_n^2 + sum over l of w_l mean pool_l(d_n)^2) / (1 + sum over l of w_l)
        value   = sum over levels n of value_n

    pool_l is adaptive average pooling to l x l, for l of `pyramid` = 4, 2, 1 in this order, and only where l is
    less than the map's height H (the authors ask nothing of the width). The first l that is used has w_l = 1/2, each
    further one half of the one before. Means are over all elements. Pooling is linear, so that the difference of two
    pooled maps is the pooled difference.

    Rows (R, C) count as maps of one cell: the mean squared difference. One level may be given as a tensor, several come
    as lists, in any order: nothing but the sum connects them.

    Zero at F_s = F_t with zero gradient. With `valid` all means and poolings are over the rectangle that holds an
    image's valid cells, as if its map had been cropped, and then averaged over the B images; H is the rectangle's
    height. Cells inside the rectangle that are not valid (a selection of cells does that) count as equal in the
    pooled terms, and not at all in the first. The teacher's side is detached, arithmetic is in float32, a level
    without an element gives 0.

    Published weights, for p2 to p6: teacher ResNet-101, student ResNet-50: 1.0 in Faster R-CNN, 0.8 in Mask R-CNN;
    ResNet-101 and 18: 1.2 and 1.5; ResNet-50 and MobileNetV2: 2.0 and 1.0. RetinaNet, p3 to p7: 1.0. CIFAR-100: 0.6
    to 8.

    Source: dvlab-research/ReviewKD (cede6ea), `Detection/model/kd_trans.py`, hcl; megvii-research/mdistiller (a08d46f)
    has the same.

    Args:
        pyramid: sizes l, in the order in which their weights halve.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, pyramid: Sequence[int] = (4, 2, 1)) -> None:
        super().__init__()
        if any(size < 1 for size in pyramid):
            raise ValueError(f"HierarchicalContext pools to sizes of at least 1, not {list(pyramid)}.")
        self.pyramid = tuple(pyramid)

    def forward(
        self,
        student: Tensor | Sequence[Tensor],
        teacher: Tensor | Sequence[Tensor],
        valid: Tensor | Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """Compare one level or lists of levels, each of equal shapes (B, C, H, W) or (R, C). Returns a scalar.

        Raises:
            ValueError: unequal numbers of levels, or shapes that differ within one.
        """
        ours = [student] if isinstance(student, Tensor) else list(student)
        theirs = [teacher] if isinstance(teacher, Tensor) else list(teacher)
        masks = [valid] * len(ours) if valid is None or isinstance(valid, Tensor) else list(valid)
        if not ours or not len(ours) == len(theirs) == len(masks):
            raise ValueError(
                f"HierarchicalContext compares levels one by one, but got {len(ours)} of the student's, "
                f"{len(theirs)} of the teacher's and {len(masks)} masks."
            )
        levels = [self._level(*level) for level in zip(ours, theirs, masks, strict=True)]
        return torch.stack(levels).sum()

    def _level(self, student: Tensor, teacher: Tensor, valid: Tensor | None) -> Tensor:
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            if student.numel() == 0:
                return student.sum() * 0
            difference = student - teacher
            if difference.dim() == 2:
                difference = difference[:, :, None, None]
            inside = torch.ones_like(difference[:, :1], dtype=torch.bool) if valid is None else valid
            rows, columns = inside.any(3)[:, 0], inside.any(2)[:, 0]
            height = _extent(rows)[1]
            cells = inside.sum((1, 2, 3)).clamp(min=1)
            value = difference.square().mean(1).sum((1, 2)) / cells  # (B,)
            weight, total = torch.ones_like(value), torch.ones_like(value)
            for size in self.pyramid:
                if size >= difference.shape[2]:
                    continue
                pooled = torch.einsum("bchw,bmw->bchm", difference, _bins(columns, size, value.dtype))
                pooled = torch.einsum("bchm,blh->bclm", pooled, _bins(rows, size, value.dtype))
                used = size < height
                weight = torch.where(used, weight / 2, weight)
                value = value + torch.where(used, weight * pooled.square().mean((1, 2, 3)), 0)
                total = total + torch.where(used, weight, 0)
            return (value / total).mean()

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"pyramid={self.pyramid}"


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied position and length of the range that holds all, (B, N) bool to two (B,); all N if none is."""
    flags = occupied.int()
    first, after = flags.argmax(1), occupied.shape[1] - flags.flip(1).argmax(1)
    return first, after - first


def _bins(occupied: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """What adaptive average pooling of the occupied range multiplies by, (B, N) bool to (B, size, N).

    Bin i of a range of n positions is floor(i n / size) to ceil((i + 1) n / size), the latter excluded.
    """
    first, length = (v[:, None] for v in _extent(occupied))
    index = torch.arange(size, device=occupied.device)
    start = first + index * length // size
    end = first - -(index + 1) * length // size  # rounded up
    position = torch.arange(occupied.shape[1], device=occupied.device)
    inside = (position >= start[:, :, None]) & (position < end[:, :, None])
    return inside / (end - start)[:, :, None].to(dtype)
