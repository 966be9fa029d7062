"""Attention transfer: Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of
Convolutional Neural Networks via Attention Transfer", ICLR 2017; the part on activations.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .arithmetic import unit_norm
from .inputs import full_precision, prepare

Map = Literal["sum", "sum_p", "max_p"]
Outer = Literal["mse", "l2", "scaled"]

REFERENCE_CELLS = 64
"""Cells of the map (8 x 8, last group of a CIFAR network) on which "scaled" equals the authors' "mse"."""

_SMALLEST = 1e-6


def attention_map(x: Tensor, map: Map = "sum_p", p: float = 2) -> Tensor:
    """Where a feature map is active: (B, C, H, W) to (B, H, W).

        "sum"    sum_c |A_c|          "sum_p"  sum_c |A_c|^p          "max_p"  max_c |A_c|^p

    The absolute value comes first, so that features of both signs and any p > 0 are allowed. For p < 1 the
    slope of |a|^p is infinite at zero: activations up to 1e-6 count as zero there, without a gradient.

    Raises:
        ValueError: an unknown map, p not above zero, or x is no map.
    """
    _check(map, p)
    if x.dim() != 4:
        raise ValueError(f"An attention map is made of a map (B, C, H, W), not of {tuple(x.shape)}.")
    size = x.abs()
    if map == "max_p":
        return _power(size.amax(1), p)
    return (size if map == "sum" else _power(size, p)).sum(1)


class AttentionTransfer(nn.Module):
    """Distance of two attention maps after each sample's was divided by its own L2 norm.

        Q = attention_map(A) (B, H, W)        d = Q_s / ||Q_s||_2 - Q_t / ||Q_t||_2        norms per sample

    With n = H*W cells, the value is the mean over the B samples of

        "mse"     ||d||_2^2 / n       mean over B, H, W of the squared difference: the authors' code, weight 1000
        "l2"      ||d||_2             the paper's formula, not squared
        "scaled"  ||d||_2^2 / 64      "mse" times n / 64

    Scale law. The maps are not negative, hence ||d||^2 = 2 - 2 cos(Q_s, Q_t) lies in [0, 2], whatever their
    size: "mse" is at most 2 / n and falls as 1 / (H*W), to 238 times less on 100x152 than on 8x8 for maps
    that agree equally well. "l2" and "scaled" do not depend on the size. "scaled" equals "mse" on 8x8, the
    last group of the authors' CIFAR networks; there 1000 / n is 15.6, on the first group's 32x32 only 1.

    Paper and code disagree: the paper's beta / 2 times the norm is not squared, the code's beta times the mean
    is; neither factor is in here, and the 1/2 belongs to the pair's weight. The paper's beta is the code's
    divided by batch and map size. "l2" pulls with the same force however close the maps are; where they agree
    its gradient is taken as zero.

    The two sides may differ in channels: maps have none. With sum over channels or mean the value is the same.
    Zero at A_s = A_t; unchanged when either feature is scaled by a positive or a negative number. Each sample
    is divided by its largest activation before the power, which changes nothing but keeps large and small
    features within float32; one whose largest activation is below `eps` is divided by `eps`, so that an
    all-zero map stays zero with a finite gradient. With `valid`, norms and n are over the valid cells of each
    image alone, as if its map had been cropped. The teacher's side is detached, arithmetic is in float32, no
    sample gives 0.

    Source: szagoruyko/attention-transfer (893df54), `utils.py` `at`, `at_loss`: "sum_p", p = 2, "mse". Other p
    and "sum" agree with AberHu/Knowledge-Distillation-Zoo (65470c8), `kd_losses/at.py`. Not implemented here:
    gradient-based attention, and the pooling of maps of unequal size, which is the pair's business.

    Args:
        map: "sum", "sum_p" or "max_p", see `attention_map`.
        p: power of "sum_p" and "max_p", above zero; "sum" has none.
        outer: "mse", "l2" or "scaled".
        eps: smallest activation that is divided by.
    """

    needs_equal_channels = False

    def __init__(self, map: Map = "sum_p", p: float = 2, outer: Outer = "mse", *, eps: float = 1e-6) -> None:
        super().__init__()
        _check(map, p)
        if outer not in ("mse", "l2", "scaled"):
            raise ValueError(f'AttentionTransfer compares by "mse", "l2" or "scaled", not by {outer!r}.')
        self.map, self.p, self.outer, self.eps = map, p, outer, eps

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare maps (B, C, H, W) and (B, C', H, W); see the class. Returns a scalar."""
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid, channels=False, rows=False)
            if student.numel() == 0 or teacher.numel() == 0:
                return student.sum() * 0
            difference = (self._unit_map(student) - self._unit_map(teacher)).flatten(1)
            if self.outer == "l2":
                return torch.linalg.vector_norm(difference, dim=1).mean()
            return (difference.square().sum(1) / self._divisor(difference, valid)).mean()

    def _unit_map(self, feature: Tensor) -> Tensor:
        largest = feature.detach().abs().amax((1, 2, 3), keepdim=True).clamp(min=self.eps)
        # A map whose largest activation is 1 has a norm of 1 or more: a smaller one is that of a sample below eps.
        return unit_norm(attention_map(feature / largest, self.map, self.p), 1.0)

    def _divisor(self, difference: Tensor, valid: Tensor | None) -> Tensor | int:
        """What ||d||^2 is divided by: one number, or one per image (B,) where `valid` differs."""
        if self.outer == "scaled":
            return REFERENCE_CELLS
        return difference.shape[1] if valid is None else valid.sum(dim=(1, 2, 3)).clamp(min=1)

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"map={self.map!r}, p={self.p}, outer={self.outer!r}"


def _check(map: str, p: float) -> None:
    if map not in ("sum", "sum_p", "max_p"):
        raise ValueError(f'The attention map is "sum", "sum_p" or "max_p", not {map!r}.')
    if not p > 0:
        raise ValueError(f"The power of an attention map must be above 0 (2 is usual), not p = {p}.")


def _power(size: Tensor, p: float) -> Tensor:
    """size^p for size >= 0, with a finite gradient at zero."""
    if p >= 1:
        return size**p
    return torch.where(size > _SMALLEST, size.clamp(min=_SMALLEST) ** p, 0)
