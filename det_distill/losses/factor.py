"""Factor transfer: Kim, Park, Kwak, "Paraphrasing Complex Network: Network Compression via Factor Transfer",
NeurIPS 2018. The loss between two factors; the networks that make them are in `det_distill.adapters`.
"""

from __future__ import annotations

import math
from typing import Literal, overload

from torch import Tensor, nn

from .arithmetic import unit_norm
from .inputs import full_precision, prepare

Reduction = Literal["mean", "sum", "scaled"]

REFERENCE_SIZE = 2048
"""Elements of the factor (32 x 8 x 8, CIFAR ResNet-56) for which the authors chose the weight 500."""


@overload
def scale_law(n: float, p: int = 1) -> float: ...
@overload
def scale_law(n: Tensor, p: int = 1) -> Tensor: ...
def scale_law(n: float | Tensor, p: int = 1) -> float | Tensor:
    """Mean over elements of |u - v|^p for two unrelated unit vectors u, v of n elements.

    An element of a random unit vector is nearly normal with variance 1/n, the difference of two such elements
    normal with variance 2/n. Its expected absolute value is sqrt(2/n) * sqrt(2/pi), its expected square the
    variance itself:

        p = 1:  sqrt(4 / (pi n))        p = 2:  2 / n

    For p = 1 that is 0.0249 for a 32x8x8 factor and 0.00114 for 512x38x50: one weight means 22 times less on
    the second. Factors of one sign or that already agree are closer by a constant, but fall with n in the
    same way.
    """
    if p == 1:
        return (4 / (math.pi * n)) ** 0.5
    if p == 2:
        return 2 / n
    raise ValueError(f"The scale law is known for p = 1 and p = 2, not for p = {p}.")


class FactorTransfer(nn.Module):
    """Distance of two factors after each sample was divided by its own L2 norm.

        d = F_s / ||F_s||_2 - F_t / ||F_t||_2        norms over all n = C*H*W elements of one sample

    With a_b = sum over sample b's elements of |d|^p, the value is the mean over the B samples of

        "mean"    a_b / n               mean over all elements: the authors' code; weight 500 on 32x8x8
        "sum"     a_b                   per-sample sum: the paper's norm for p = 1
        "scaled"  a_b / n * s(2048) / s(n)      s = `scale_law(., p)`; that is "mean" times sqrt(n / 2048) for
                                        p = 1, times n / 2048 for p = 2

    "scaled" equals "mean" at n = 2048 and keeps the size of the term, hence the meaning of its weight, on any
    other map. For p = 2 it is a constant multiple (1 / 2048) of "sum", for p = 1 it is a multiple of sum /
    sqrt(n).

    p = 2 is the *squared* L2 norm of d. The paper's un-squared ||d||_2 is not implemented: its gradient does
    not vanish but is undefined where the factors agree.

    Zero at F_s = F_t with zero gradient; unchanged when either factor is scaled by a positive number (as long
    as its norm exceeds `eps`). With `valid`, norms, sums and n are over the valid cells of each image alone,
    as if its map had been cropped. The teacher's side is detached, arithmetic is in float32, no sample gives
    0.

    Source: Jangho-Kim/Factor-Transfer-pytorch (19cce26), `utils.py` `FT` with `L1Loss`, which is p = 1,
    "mean". It divides by the norm as `F.normalize` does, with eps 1e-12; here 1e-6, which differs only for
    norms below that. RepDistiller's loss of the same name compares attention maps of the factors and is a
    different function.

    Args:
        p: 1 or 2.
        reduction: "mean", "sum" or "scaled".
        eps: smallest norm that is divided by.
    """

    def __init__(self, p: int = 1, reduction: Reduction = "mean", *, eps: float = 1e-6) -> None:
        super().__init__()
        if p not in (1, 2):
            raise ValueError(f"FactorTransfer knows p = 1 and p = 2, not p = {p!r}.")
        if reduction not in ("mean", "sum", "scaled"):
            raise ValueError(f'FactorTransfer reduces by "mean", "sum" or "scaled", not by {reduction!r}.')
        self.p, self.reduction, self.eps = p, reduction, eps

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare two equal shapes (B, C, H, W) or (R, C); see the class. Returns a scalar."""
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            if student.numel() == 0:
                return student.sum() * 0
            difference = (unit_norm(student, self.eps) - unit_norm(teacher, self.eps)).flatten(1)
            per_sample = (difference.abs() if self.p == 1 else difference.square()).sum(1)
            return (per_sample * self._factor(student, valid)).mean()

    def _factor(self, student: Tensor, valid: Tensor | None) -> Tensor | float:
        """What a per-sample sum is multiplied by: one number, or one per image (B,) where `valid` differs."""
        if self.reduction == "sum":
            return 1.0
        n: Tensor | float = student[0].numel()
        if valid is not None:
            n = (valid.sum(dim=(1, 2, 3)).clamp(min=1) * student.shape[1]).to(student.dtype)
        if self.reduction == "mean":
            return 1 / n
        return scale_law(REFERENCE_SIZE, self.p) / (n * scale_law(n, self.p))

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"p={self.p}, reduction={self.reduction!r}"
