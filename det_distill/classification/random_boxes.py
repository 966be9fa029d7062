"""Random rectangles of images, drawn for many images at once: distributed as torchvision's, image by image."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["boxes_to_blank", "boxes_to_see"]

_TRIES = 10


def boxes_to_see(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
    """Return parts of images as ``torchvision.transforms.RandomResizedCrop`` takes them.

    Area and proportions (evenly on the logarithmic scale) are drawn up to ten times until the rectangle fits into the
    image; then its place. If none fits: the middle of the image, whole if its own proportions are allowed.

    Args:
        rng: draws.
        count: rectangles.
        size: height and width of the images.
        scale: the least and the greatest share of the image's area.
        ratio: the least and the greatest width by height.

    Returns:
        Top, left, height and width in pixels, int64 (count, 4).
    """
    height, width = size
    tall, wide, fits = _tried(rng, count, size, scale, ratio)
    own = min(max(width / height, ratio[0]), ratio[1])
    middle = min(height, round(width / own)), min(width, round(height * own))
    tall, wide = np.where(fits, tall, middle[0]), np.where(fits, wide, middle[1])
    boxes = _placed(rng, tall, wide, size)
    boxes[~fits, :2] = (height - middle[0]) // 2, (width - middle[1]) // 2
    return boxes


def boxes_to_blank(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
) -> np.ndarray:
    """Return rectangles as ``torchvision.transforms.RandomErasing`` blanks them, by its defaults.

    As in `boxes_to_see`, but `ratio` is height by width, a rectangle must be smaller than the image on both sides, and
    if none fits, it is empty.

    Returns:
        Top, left, height and width in pixels, int64 (count, 4).
    """
    lying = (1 / ratio[1], 1 / ratio[0])
    tall, wide, fits = _tried(rng, count, size, scale, lying, room=1)
    return _placed(rng, np.where(fits, tall, 0), np.where(fits, wide, 0), size)


def _tried(
    rng: np.random.Generator,
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    room: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of ten rectangles for each image the first that leaves `room`: heights, widths, and whether there was one."""
    area = size[0] * size[1] * rng.uniform(*scale, size=(count, _TRIES))
    proportions = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), size=(count, _TRIES)))
    tall = np.rint(np.sqrt(area / proportions)).astype(np.int64)
    wide = np.rint(np.sqrt(area * proportions)).astype(np.int64)
    fit = (tall > 0) & (wide > 0) & (tall <= size[0] - room) & (wide <= size[1] - room)
    chosen = np.arange(count), fit.argmax(1)
    return tall[chosen], wide[chosen], fit[chosen]


def _placed(
    rng: np.random.Generator, tall: np.ndarray, wide: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Put each rectangle anywhere in the image."""
    top, left = rng.integers(size[0] - tall + 1), rng.integers(size[1] - wide + 1)
    return np.stack([top, left, tall, wide], axis=1)
