"""What every network of factor transfer that is trained on the teacher's maps has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from ..losses.inputs import full_precision, image_mean, prepare

Own = TypeVar("Own", bound="Reconstructor")


class Reconstructor(nn.Module):
    """A network of the teacher's map that is trained to reconstruct it, and then frozen.

    As an adapter (`forward`) it is its encoder: the teacher's map (B, m, H, W) to the factor, a map of r
    channels.

    Attributes:
        in_channels: m.
        factor_channels: r.
        frozen: whether `freeze` was called.
    """

    in_channels: int
    factor_channels: int

    def __init__(self) -> None:
        super().__init__()
        self.frozen = False

    def encode(self, x: Tensor) -> Tensor:
        """The factor of a teacher's map (B, m, H, W)."""
        raise NotImplementedError

    def decode(self, z: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The map that a factor stands for.

        Args:
            z: the factor.
            size: H and W of the map, where the factor alone does not tell.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """The same as `encode`, which is what a pair needs."""
        return self.encode(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode and decode: (B, m, H, W) to (B, m, H, W)."""
        return self.decode(self.encode(x), x.shape[-2:])

    def translator(self, in_channels: int, *, batch_norm: bool = False) -> nn.Module:
        """Return a new student's network whose factor has the form of this one's.

        Args:
            in_channels: c, the student's channels.
            batch_norm: whether it has batch normalisation.
        """
        raise NotImplementedError

    def reconstruction_loss(
        self, x: Tensor, *, p: Literal[1, 2] = 1, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """How badly `reconstruct(x)` misses x, two scalars (raw, scaled): train on `raw`, compare `scaled`.

        p = 1: raw = mean |x' - x| (the authors' code),      scaled = raw / standard deviation of x
        p = 2: raw = mean (x' - x)^2 (the paper),            scaled = raw / variance of x

        Means are over all elements; with `valid` (bool (B, 1, H, W)) over each image's valid cells and then
        over images. Variance and deviation are those of all (valid) elements of the batch about their one
        mean, and so `scaled` does not depend on the unit of x: with p = 2, 1 is what a constant output would
        reach. The padded cells are fed to the convolutions as they are. x is the teacher's: it gets no
        gradient.

        Raises:
            ValueError: p is neither 1 nor 2, or `valid` does not fit x.
        """
        if p not in (1, 2):
            raise ValueError(f"The reconstruction loss knows p = 1 and p = 2, not p = {p!r}.")
        x = x.detach()
        rebuilt = self.reconstruct(x)
        with full_precision(x):
            rebuilt, x = prepare(rebuilt, x.to(torch.promote_types(x.dtype, rebuilt.dtype)), valid)
            if x.numel() == 0:
                return rebuilt.sum() * 0, rebuilt.sum() * 0
            miss = (rebuilt - x).abs() if p == 1 else (rebuilt - x).square()
            raw = image_mean(miss.mean(1), valid)
            variance = _variance(x, valid).clamp(min=1e-12)
            return raw, raw / (variance.sqrt() if p == 1 else variance)

    def freeze(self: Own) -> Own:
        """Fix it for good: no gradients, and `train()` leaves it in eval mode. Returns itself."""
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self: Own, mode: bool = True) -> Own:
        """As in `nn.Module`, but a frozen one stays in eval mode."""
        return super().train(mode and not self.frozen)


def _variance(x: Tensor, valid: Tensor | None) -> Tensor:
    """Population variance of the elements of x (B, C, H, W) in valid cells; 0 if there is none."""
    inside = torch.ones_like(x[:, :1], dtype=torch.bool) if valid is None else valid
    n = (inside.sum() * x.shape[1]).clamp(min=1)
    mean = x.sum() / n  # x is already zero outside `valid`
    return ((x - mean).masked_fill(~inside, 0).square().sum()) / n
