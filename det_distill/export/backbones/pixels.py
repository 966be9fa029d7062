"""Pixels as detectron2 wants them, and as torchvision and timm do: RGB of 0 to 1, less a mean, over a deviation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["IMAGENET", "RgbPixels", "detectron2_pixels", "normalised", "rgb_pixels", "swapped"]


@dataclass(frozen=True)
class RgbPixels:
    """What torchvision's ``Normalize`` takes.

    Attributes:
        mean: per channel, red first, of pixels of 0 to 1.
        std: per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = RgbPixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""torchvision's, for all of its weights of ResNets and VGGs."""


def rgb_pixels(input_format: str, mean: Sequence[float], std: Sequence[float]) -> RgbPixels:
    """Return ``MODEL.PIXEL_MEAN`` and ``PIXEL_STD`` of an ``INPUT.FORMAT`` for pixels of 0 to 1, red first.

    Raises:
        ValueError: the format is not RGB, BGR or L.
    """
    if input_format not in ("RGB", "BGR", "L"):
        raise ValueError(f"INPUT.FORMAT {input_format!r} is not RGB, BGR or L, so no library has its pixels")
    order = -1 if input_format == "BGR" else 1
    return RgbPixels(*(tuple(round(x / 255, 12) for x in values)[::order] for values in (mean, std)))


def detectron2_pixels(pixels: RgbPixels, input_format: str) -> tuple[list[float], list[float]]:
    """Return ``MODEL.PIXEL_MEAN`` and ``PIXEL_STD`` for an ``INPUT.FORMAT``, the inverse of `rgb_pixels`."""
    order = -1 if input_format == "BGR" else 1
    mean, std = ([round(x * 255, 6) for x in values][::order] for values in (pixels.mean, pixels.std))
    return mean, std


def normalised(image: Tensor, input_format: str, pixels: RgbPixels) -> Tensor:
    """Prepare an image (C, H, W), 0 to 255, in `input_format`, as torchvision's and timm's users do: (1, C, H, W)."""
    rgb = image.flip(0) if input_format == "BGR" else image
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (pixels.mean, pixels.std))
    return ((rgb.float() / 255 - mean) / std)[None]


def swapped(state: Mapping[str, Tensor], first: str, input_format: str) -> dict[str, Tensor]:
    """Return a state whose first convolution takes RGB in place of `input_format`, or the reverse.

    Only the order of the input channels (dimension 1) of the tensor `first` changes, and only for ``"BGR"``; no value
    does, so that doing it twice is nothing, bit for bit.
    """
    return {k: v.flip(1) if k == first and input_format == "BGR" else v for k, v in state.items()}
