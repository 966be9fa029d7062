"""What happens to an image on its way to a classifier: functions from (H, W, C) uint8 to (H, W, C) uint8.

Randomness comes from numpy's global generator, which the training loader seeds for each image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

__all__ = ["Augmentation", "CentreCrop", "Pad", "RandomCrop", "RandomFlip", "Resize", "in_turn"]

Augmentation = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Resize:
    """Resize so that the shorter side has `size` pixels, bilinear with anti-aliasing (Pillow's)."""

    size: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Resize."""
        height, width = image.shape[:2]
        scale = self.size / min(height, width)
        target = (max(self.size, round(width * scale)), max(self.size, round(height * scale)))
        if target == (width, height):
            return image
        planes = image[:, :, 0] if image.shape[2] == 1 else np.ascontiguousarray(image)
        resized = np.asarray(Image.fromarray(planes).resize(target, Image.Resampling.BILINEAR))
        return resized.reshape(target[1], target[0], image.shape[2])


@dataclass(frozen=True)
class Pad:
    """Add `size` pixels on every side: black (``"zero"``), or the image mirrored at its edge (``"reflect"``)."""

    size: int
    mode: Literal["zero", "reflect"] = "zero"

    def __post_init__(self) -> None:
        if self.mode not in ("zero", "reflect"):
            raise ValueError(f"INPUT.CLASSIFICATION.PAD_MODE {self.mode!r}: choose 'zero' or 'reflect'")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Pad."""
        sides = ((self.size, self.size), (self.size, self.size), (0, 0))
        return np.pad(image, sides, mode="constant" if self.mode == "zero" else "reflect")


@dataclass(frozen=True)
class RandomCrop:
    """Cut a square of `size` pixels out of the image, every place equally likely."""

    size: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Crop.

        Raises:
            ValueError: the image is too small.
        """
        return _crop(image, self.size, lambda room: np.random.randint(room + 1))


@dataclass(frozen=True)
class CentreCrop:
    """Cut a square of `size` pixels out of the middle; an odd pixel is left at the bottom and the right."""

    size: int

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Crop.

        Raises:
            ValueError: the image is too small.
        """
        return _crop(image, self.size, lambda room: room // 2)


@dataclass(frozen=True)
class RandomFlip:
    """Mirror left to right with probability 1/2."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Mirror, or not."""
        return image[:, ::-1] if np.random.rand() < 0.5 else image


def in_turn(augmentations: Sequence[Augmentation], image: np.ndarray) -> np.ndarray:
    """Return the image after all of them."""
    for augmentation in augmentations:
        image = augmentation(image)
    return image


def _crop(image: np.ndarray, size: int, place: Callable[[int], int]) -> np.ndarray:
    """Cut a square out; `place` says how far it moves down, and right, of the pixels that it can."""
    height, width = image.shape[:2]
    if min(height, width) < size:
        raise ValueError(
            f"the image has {height} x {width} pixels where it is to be cropped to {size} x {size}: set "
            "INPUT.CLASSIFICATION.RESIZE, or a smaller CROP"
        )
    top, left = place(height - size), place(width - size)
    return image[top : top + size, left : left + size]
