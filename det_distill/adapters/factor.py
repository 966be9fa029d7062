"""The networks of factor transfer: translator and paraphraser."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.inputs import full_precision, image_mean, prepare

NEGATIVE_SLOPE = 0.1
"""Slope of every LeakyReLU in factor transfer (the authors' code)."""


class Translator(nn.Module):
    """The student's side of factor transfer: a map (B, c, H, W) to a factor (B, r, H, W).

    Three 3x3 convolutions c -> c, c -> r, r -> r with bias, stride 1, padding 1, each followed by
    LeakyReLU(0.1), also the last. In FEED, which has no paraphraser, r is the teacher's number of channels.

    Source: Jangho-Kim/Factor-Transfer-pytorch (19cce26), `Models/FeatureProjection.py`; its weights load by
    name.

    Args:
        in_channels: c, the student's channels.
        factor_channels: r, the paraphraser's `factor_channels`.
        batch_norm: put BatchNorm between each convolution and its LeakyReLU (the released code has none).
    """

    def __init__(self, in_channels: int, factor_channels: int, *, batch_norm: bool = False) -> None:
        super().__init__()
        c, r = in_channels, factor_channels
        self.in_channels, self.factor_channels = c, r
        self.conv0, self.norm0 = nn.Conv2d(c, c, 3, padding=1), _norm(c, batch_norm)
        self.conv1, self.norm1 = nn.Conv2d(c, r, 3, padding=1), _norm(r, batch_norm)
        self.conv2, self.norm2 = nn.Conv2d(r, r, 3, padding=1), _norm(r, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, r, H, W)."""
        return _layers(x, (self.conv0, self.norm0), (self.conv1, self.norm1), (self.conv2, self.norm2))


class Paraphraser(nn.Module):
    """The teacher's side of factor transfer: an auto-encoder of the teacher's map, trained, then frozen.

    Encoder: three 3x3 convolutions m -> m, m -> r, r -> r. Decoder: three 3x3 transposed convolutions r -> r,
    r -> m, m -> m. All with bias, stride 1, padding 1, each followed by LeakyReLU(0.1), also the last of the
    decoder. The map's size does not change. As an adapter (`forward`) it is its encoder: (B, m, H, W) to the
    factor (B, r, H, W).

    Source: Jangho-Kim/Factor-Transfer-pytorch (19cce26), `Models/FeatureProjection.py`; its weights load by
    name. The down-sampling auto-encoder of the paper's first version is not implemented.

    Args:
        in_channels: m, the teacher's channels.
        rate: paraphrase rate k; r = max(1, round(k * m)). The paper compares 0.5, 0.75 and 1.
        factor_channels: r itself, in place of `rate`.
        batch_norm: put BatchNorm between each (transposed) convolution and its LeakyReLU (released code:
        none).
    """

    def __init__(
        self,
        in_channels: int,
        rate: float = 0.5,
        *,
        factor_channels: int | None = None,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if rate <= 0 or (factor_channels is not None and factor_channels < 1):
            raise ValueError(
                f"Paraphraser: rate must be above 0, factor_channels above 0: {rate}, {factor_channels}."
            )
        m, r = in_channels, factor_channels or max(1, round(rate * in_channels))
        self.in_channels, self.factor_channels = m, r
        self.frozen = False
        self.conv0, self.norm0 = nn.Conv2d(m, m, 3, padding=1), _norm(m, batch_norm)
        self.conv1, self.norm1 = nn.Conv2d(m, r, 3, padding=1), _norm(r, batch_norm)
        self.conv2, self.norm2 = nn.Conv2d(r, r, 3, padding=1), _norm(r, batch_norm)
        self.deconv0, self.denorm0 = nn.ConvTranspose2d(r, r, 3, padding=1), _norm(r, batch_norm)
        self.deconv1, self.denorm1 = nn.ConvTranspose2d(r, m, 3, padding=1), _norm(m, batch_norm)
        self.deconv2, self.denorm2 = nn.ConvTranspose2d(m, m, 3, padding=1), _norm(m, batch_norm)

    def encode(self, x: Tensor) -> Tensor:
        """The factor (B, r, H, W) of a teacher's map (B, m, H, W)."""
        return _layers(x, (self.conv0, self.norm0), (self.conv1, self.norm1), (self.conv2, self.norm2))

    def decode(self, z: Tensor) -> Tensor:
        """The map (B, m, H, W) that a factor (B, r, H, W) stands for."""
        return _layers(
            z, (self.deconv0, self.denorm0), (self.deconv1, self.denorm1), (self.deconv2, self.denorm2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The same as `encode`, which is what a pair needs."""
        return self.encode(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Encode and decode: (B, m, H, W) to (B, m, H, W)."""
        return self.decode(self.encode(x))

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

    def freeze(self) -> Paraphraser:
        """Fix it for good: no gradients, and `train()` leaves it in eval mode. Returns itself."""
        self.frozen = True
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> Paraphraser:
        """As in `nn.Module`, but a frozen paraphraser stays in eval mode."""
        return super().train(mode and not self.frozen)


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


def _layers(x: Tensor, *layers: tuple[nn.Module, nn.Module]) -> Tensor:
    for conv, norm in layers:
        x = F.leaky_relu(norm(conv(x)), NEGATIVE_SLOPE)
    return x


def _variance(x: Tensor, valid: Tensor | None) -> Tensor:
    """Population variance of the elements of x (B, C, H, W) in valid cells; 0 if there is none."""
    inside = torch.ones_like(x[:, :1], dtype=torch.bool) if valid is None else valid
    n = (inside.sum() * x.shape[1]).clamp(min=1)
    mean = x.sum() / n  # x is already zero outside `valid`
    return ((x - mean).masked_fill(~inside, 0).square().sum()) / n
