"""Factor transfer with a convolutional auto-encoder that halves the map, in place of the paraphraser."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .factor import NEGATIVE_SLOPE, norm_layer
from .reconstruction import Reconstructor


class AutoEncoderTranslator(nn.Module):
    """The student's side of factor transfer with an `AutoEncoder`: the layers of its encoder, but from c channels.

    3x3 convolutions c -> w_1 -> w_2 -> ... with bias and padding 1, with stride 2 in the middle one (number
    n // 2 of n, counted from 0), each followed by LeakyReLU(0.1) except the last, which is linear: a map
    (B, c, H, W) to (B, w_n, ceil(H/2), ceil(W/2)).

    Source: as the `AutoEncoder`.

    Args:
        in_channels: c, the student's channels.
        widths: w_1 to w_n, the auto-encoder's.
        batch_norm: put BatchNorm between each convolution and its LeakyReLU; not after the last.

    Attributes:
        downsampling: cells of the map per cell of the factor, by which a pair knows the factor's stride.

    Raises:
        ValueError: no widths.
    """

    downsampling = 2

    def __init__(self, in_channels: int, widths: Sequence[int], *, batch_norm: bool = False) -> None:
        super().__init__()
        if not widths:
            raise ValueError("AutoEncoderTranslator needs the widths of at least 1 layer.")
        self.in_channels, self.factor_channels, self.layers = in_channels, widths[-1], len(widths)
        _add_encoder(self, ("conv", "norm"), [in_channels, *widths], batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, w_n, ceil(H/2), ceil(W/2))."""
        return _encode(self, ("conv", "norm"), self.layers, x)


class AutoEncoder(Reconstructor):
    """The teacher's side: an auto-encoder whose code has half the height and width of the teacher's map.

    Encoder: n = 3 3x3 convolutions m -> w_1 -> w_2 -> w_3 with w_i = max(1, round(m * k^i)), stride 2 in
    layer n // 2 (the middle one), LeakyReLU(0.1) between them; the last is linear. Decoder: LeakyReLU(0.1),
    then the mirror image in transposed convolutions w_3 -> w_2 -> w_1 -> m, LeakyReLU(0.1) between them; the
    last is linear. All with bias and padding 1. A map of odd height or width H is halved to (H + 1) / 2 and
    comes back as H.

    As an adapter (`forward`) it is its encoder. Its factor has a quarter of the map's cells; the translator's
    `downsampling` tells the pair, so that masks of valid cells are made for the factor's grid.

    Source: the older form of the method (a down-sampling auto-encoder instead of the paraphraser) as
    sseung0703/KD_methods_with_TF (9fb5414), `nets/Response.py`, has it: channels m k, m k^2, m k^3, stride
    1 / k in the middle, a linear code. No authors' code of it is known. Here, and not there: stride 2 for
    every k, slope 0.1 as in the rest of the method (there 0.2), a linear last layer of the decoder (there
    LeakyReLU), other numbers of layers. Not implemented: its normalisation of every cell of the factor; the
    loss divides whole factors by their norm.

    Args:
        in_channels: m, the teacher's channels.
        rate: k.
        layers: number n of convolutions of the encoder, and of the decoder.
        batch_norm: put BatchNorm in front of each LeakyReLU that follows a convolution of its own half.

    Attributes:
        widths: w_1 to w_n.
        downsampling: cells of the map per cell of the factor.

    Raises:
        ValueError: a rate or a number of layers that makes no sense.
    """

    downsampling = 2

    def __init__(
        self, in_channels: int, rate: float = 0.5, *, layers: int = 3, batch_norm: bool = False
    ) -> None:
        super().__init__()
        if rate <= 0 or layers < 1:
            raise ValueError(
                f"AutoEncoder: rate must be above 0 and layers at least 1, not {rate} and {layers}."
            )
        self.widths = tuple(max(1, round(in_channels * rate**i)) for i in range(1, layers + 1))
        self.in_channels, self.factor_channels, self.layers = in_channels, self.widths[-1], layers
        widths = [in_channels, *self.widths]
        _add_encoder(self, ("down", "downnorm"), widths, batch_norm)
        for i, (before, after) in enumerate(itertools.pairwise(widths[::-1])):
            stride = 2 if i == layers - 1 - layers // 2 else 1
            self.add_module(f"up{i}", nn.ConvTranspose2d(before, after, 3, stride=stride, padding=1))
            self.add_module(f"upnorm{i}", norm_layer(after, batch_norm and i < layers - 1))

    def encode(self, x: Tensor) -> Tensor:
        """The code (B, w_n, ceil(H/2), ceil(W/2)) of a teacher's map (B, m, H, W)."""
        return _encode(self, ("down", "downnorm"), self.layers, x)

    def decode(self, z: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """The map (B, m, H, W) that a code stands for.

        Args:
            z: the code (B, w_n, h, w).
            size: H and W, either twice h and w or one less; None: twice.

        Raises:
            ValueError: a size that does not belong to the code.
        """
        size = list(size) if size is not None else [2 * side for side in z.shape[-2:]]
        x = F.leaky_relu(z, NEGATIVE_SLOPE)
        for i in range(self.layers):
            up, norm = getattr(self, f"up{i}"), getattr(self, f"upnorm{i}")
            x = up(x, output_size=size if up.stride[0] == 2 else None)
            x = F.leaky_relu(norm(x), NEGATIVE_SLOPE) if i < self.layers - 1 else x
        return x

    def translator(self, in_channels: int, *, batch_norm: bool = False) -> AutoEncoderTranslator:
        """Return a new translator with the encoder's layers; see `Reconstructor`."""
        return AutoEncoderTranslator(in_channels, self.widths, batch_norm=batch_norm)


def _add_encoder(module: nn.Module, names: tuple[str, str], widths: Sequence[int], batch_norm: bool) -> None:
    layers = len(widths) - 1
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        stride = 2 if i == layers // 2 else 1
        module.add_module(f"{names[0]}{i}", nn.Conv2d(before, after, 3, stride=stride, padding=1))
        module.add_module(f"{names[1]}{i}", norm_layer(after, batch_norm and i < layers - 1))


def _encode(module: nn.Module, names: tuple[str, str], layers: int, x: Tensor) -> Tensor:
    for i in range(layers):
        conv, norm = (getattr(module, f"{name}{i}") for name in names)
        x = F.leaky_relu(norm(conv(x)), NEGATIVE_SLOPE) if i < layers - 1 else conv(x)
    return x
