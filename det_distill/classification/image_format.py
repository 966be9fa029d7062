"""The formats of a classifier's images: their channels, and from one to another."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torchvision.transforms import v2

__all__ = ["CHANNELS", "check_format", "in_format"]

CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


def check_format(image_format: str, pixel_mean: Sequence[float], pixel_std: Sequence[float]) -> None:
    """Refuse a format that is unknown, and another number of means or deviations than it has channels.

    Raises:
        ValueError: as said; names the keys of the config.
    """
    if image_format not in CHANNELS:
        raise ValueError(
            f"INPUT.FORMAT {image_format!r}: a classifier's images are 'RGB' or 'BGR', or 'L' (one channel)"
        )
    channels = CHANNELS[image_format]
    if not len(pixel_mean) == len(pixel_std) == channels:
        raise ValueError(
            f"MODEL.PIXEL_MEAN has {len(pixel_mean)} values and PIXEL_STD {len(pixel_std)}, where INPUT.FORMAT "
            f"{image_format!r} has {channels} channel{'s' * (channels > 1)}: one value for each"
        )


def in_format(image: Tensor, stored: str, wanted: str) -> Tensor:
    """Return an image (C, H, W) of format `stored` in format `wanted`.

    Between "RGB" and "BGR" channels are reversed; "L" becomes colour by repeating its channel; colour becomes "L" with
    the weights 0.2989, 0.587 and 0.114 of red, green and blue.

    Raises:
        ValueError: an unknown format, or an image that has not the channels of the format it is said to be in.
    """
    if stored == wanted:
        return image
    if stored not in CHANNELS or wanted not in CHANNELS:
        raise ValueError(f"an image in format {stored} for a classifier of {wanted} images")
    if len(image) != CHANNELS[stored]:
        raise ValueError(
            f"an image in format {stored} needs {CHANNELS[stored]} channel(s), and this one has {len(image)}"
        )
    if stored == "L":
        return image.expand(3, -1, -1)
    if wanted != "L":
        return image.flip(0)
    return v2.functional.rgb_to_grayscale(image if stored == "RGB" else image.flip(0))
