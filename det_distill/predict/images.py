"""Image files as people have them, turned upright, as RGB bytes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, read_image
from numpy.typing import NDArray
from PIL import Image

from ..data.pillow_formats import refuse_postscript

__all__ = ["count_frames", "read_rgb"]


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return the pixels of an image file, (H, W, 3).

    They are detectron2's, which turns an image as its EXIF tag says, drops transparency and takes the first of several
    pictures in one file. But of gray images with 16 bits, which detectron2 clips at 255, the upper 8 bits are taken.

    Raises:
        ValueError: there is no such file, or it cannot be read; says why, but not which file.
    """
    if not path.is_file():
        raise ValueError("no such file")
    refuse_postscript()
    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode.startswith("I"):
                return _upper_bits(_apply_exif_orientation(image))
        if mode == "F":
            raise ValueError("its pixels are fractions, of no known range: save it with 8 or 16 bits")
        return np.ascontiguousarray(read_image(str(path), format="RGB"))
    except (
        Exception
    ) as error:  # Pillow's readers raise errors of any kind for files that are cut short or hostile
        text = re.sub(r" <\S+ name=.*?>", "", str(error)).replace(str(path), "it").replace("'it'", "it")
        raise ValueError(text or type(error).__name__) from error


def count_frames(path: Path) -> int:
    """Return how many frames or pages an image file has that can be read; `read_rgb` reads the first.

    The pictures that a camera puts behind the photo in a JPEG file (previews, a second lens) do not count.
    """
    try:
        with Image.open(path) as image:
            return 1 if image.format in ("MPO", "JPEG") else int(getattr(image, "n_frames", 1))
    except Exception:  # as above; the first frame could be read
        return 1


def _upper_bits(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W) of 16 bits, which Pillow may give as integers of 32, as (H, W, 3)."""
    gray = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
