"""Masked generative distillation (MGD): Yang, Li, Shao, Shi, Yuan, Yuan, "Masked Generative Distillation", ECCV 2022.

The loss between what was generated from the student's masked map and the teacher's map. The mask and the
generating network are the adapter `det_distill.adapters.Generation`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from .inputs import full_precision, image_mean, prepare


class MaskedGeneration(nn.Module):
    """Squared difference of the generated and the teacher's feature, as a sum per image or as a mean.

        "sum"    sum over C, H, W of (G(F_s) - F_t)^2, divided by the B images: the authors' code
        "mean"   the same divided by C * H * W as well: the mean over all elements

    Rows (R, C): the sum over C divided by R, and the mean over all elements.

    Published weights go with "sum": 5e-7 on each of p2 to p5 of Faster R-CNN and Mask R-CNN, 2e-5 on each of p3 to
    p7 of RetinaNet and RepPoints and on SOLO, 7e-5 on the last map of a ResNet-18 on ImageNet. One such weight is
    C * H * W times as large for "mean", another number on every level: with 256 channels and an 800x1344 input,
    5e-7 is 0.54 on p4 (50x84 cells) and 8.6 on p2 (200x336). "sum" follows the size of the images, "mean" does
    not.

    Zero at G(F_s) = F_t with zero gradient. With `valid` the sums and means are over the valid cells of each
    image alone, then over the B images, as if each map had been cropped. The teacher's side is detached,
    arithmetic is in float32, no element gives 0.

    Source: yzd-v/MGD (2c9da0b), `det/mmdet/distillation/losses/mgd.py`; open-mmlab/mmrazor (90c7af1) has the same.

    Args:
        reduction: "sum" or "mean".
    """

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise ValueError(f'MaskedGeneration reduces by "sum" or "mean", not by {reduction!r}.')
        self.reduction = reduction

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare two equal shapes (B, C, H, W) or (R, C); see the class. Returns a scalar."""
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            if student.numel() == 0:
                return student.sum() * 0
            squares = (student - teacher).square()  # zero outside `valid`, where both are
            return (
                squares.sum() / len(squares)
                if self.reduction == "sum"
                else image_mean(squares.mean(1), valid)
            )

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"reduction={self.reduction!r}"
