"""The networks of factor transfer: translator and paraphraser."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .reconstruction import Reconstructor

NEGATIVE_SLOPE = 0.1
"""Slope of every LeakyReLU in factor transfer (the authors' code)."""


def layer_widths(first: int, last: int, layers: int) -> list[int]:
    """Channels before, between and after `layers` layers; layer number layers // 2, from 0, changes them.

        1: first -> last                          3: first -> first -> last -> last (the authors)
        2: first -> first -> last                 4: first -> first -> first -> last -> last

    Raises:
        ValueError: fewer than one layer.
    """
    if layers < 1:
        raise ValueError(
            f"Translator and paraphraser need at least 1 layer (the authors have 3), not {layers}."
        )
    change = layers // 2
    return [first] * (change + 1) + [last] * (layers - change)


class Translator(nn.Module):
    """The student's side of factor transfer: a map (B, c, H, W) to a factor (B, r, H, W).

    Three 3x3 convolutions c -> c, c -> r, r -> r with bias, stride 1, padding 1, each followed by
    LeakyReLU(0.1), also the last. In FEED, which has no paraphraser, r is the teacher's number of channels.

    Source: Jangho-Kim/Factor-Transfer-pytorch (19cce26), `Models/FeatureProjection.py`; its weights load by
    name. Another number of layers is our extension; `layer_widths` says where the channels change then.

    Args:
        in_channels: c, the student's channels.
        factor_channels: r, the paraphraser's `factor_channels`.
        layers: number of convolutions.
        batch_norm: put BatchNorm between each convolution and its LeakyReLU (the released code has none).
    """

    def __init__(
        self, in_channels: int, factor_channels: int, *, layers: int = 3, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.in_channels, self.factor_channels, self.layers = in_channels, factor_channels, layers
        widths = layer_widths(in_channels, factor_channels, layers)
        _add_layers(self, nn.Conv2d, ("conv", "norm"), widths, batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, r, H, W)."""
        return _run_layers(self, ("conv", "norm"), self.layers, x)


class Paraphraser(Reconstructor):
    """The teacher's side of factor transfer: an auto-encoder of the teacher's map, trained, then frozen.

    Encoder: three 3x3 convolutions m -> m, m -> r, r -> r. Decoder: three 3x3 transposed convolutions r -> r,
    r -> m, m -> m. All with bias, stride 1, padding 1, each followed by LeakyReLU(0.1), also the last of the
    decoder. The map's size does not change. As an adapter (`forward`) it is its encoder: (B, m, H, W) to the
    factor (B, r, H, W).

    Source: Jangho-Kim/Factor-Transfer-pytorch (19cce26), `Models/FeatureProjection.py`; its weights load by
    name. Another number of layers is our extension: the encoder's channels change where `layer_widths` says,
    the decoder is its mirror image. `AutoEncoder` is the down-sampling form.

    Args:
        in_channels: m, the teacher's channels.
        rate: paraphrase rate k; r = max(1, round(k * m)). The paper compares 0.5, 0.75 and 1.
        factor_channels: r itself, in place of `rate`.
        layers: number of convolutions of the encoder, and of the decoder.
        batch_norm: put BatchNorm between each (transposed) convolution and its LeakyReLU (released code:
            none).
    """

    def __init__(
        self,
        in_channels: int,
        rate: float = 0.5,
        *,
        factor_channels: int | None = None,
        layers: int = 3,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if rate <= 0 or (factor_channels is not None and factor_channels < 1):
            raise ValueError(
                f"Paraphraser: rate must be above 0, factor_channels above 0: {rate}, {factor_channels}."
            )
        m, r = in_channels, factor_channels or max(1, round(rate * in_channels))
        self.in_channels, self.factor_channels, self.layers = m, r, layers
        widths = layer_widths(m, r, layers)
        _add_layers(self, nn.Conv2d, ("conv", "norm"), widths, batch_norm)
        _add_layers(self, nn.ConvTranspose2d, ("deconv", "denorm"), widths[::-1], batch_norm)

    def encode(self, x: Tensor) -> Tensor:
        """The factor (B, r, H, W) of a teacher's map (B, m, H, W)."""
        return _run_layers(self, ("conv", "norm"), self.layers, x)

    def decode(self, z: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The map (B, m, H, W) that a factor (B, r, H, W) stands for, which tells its size."""
        return _run_layers(self, ("deconv", "denorm"), self.layers, z)

    def translator(self, in_channels: int, *, batch_norm: bool = False) -> Translator:
        """Return a new translator to r channels with as many layers; see `Reconstructor`."""
        return Translator(in_channels, self.factor_channels, layers=self.layers, batch_norm=batch_norm)


def norm_layer(channels: int, batch_norm: bool) -> nn.Module:
    """BatchNorm, or nothing."""
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


def _add_layers(
    module: nn.Module,
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d],
    names: tuple[str, str],
    widths: Sequence[int],
    batch_norm: bool,
) -> None:
    """Give `module` the layers conv0, norm0, conv1, ... (of those two `names`): the authors' names."""
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        module.add_module(f"{names[0]}{i}", kind(before, after, 3, padding=1))
        module.add_module(f"{names[1]}{i}", norm_layer(after, batch_norm))


def _run_layers(module: nn.Module, names: tuple[str, str], layers: int, x: Tensor) -> Tensor:
    for i in range(layers):
        conv, norm = (getattr(module, f"{name}{i}") for name in names)
        x = F.leaky_relu(norm(conv(x)), NEGATIVE_SLOPE)
    return x
