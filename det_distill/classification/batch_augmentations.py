"""Augmentation of a whole batch at once, where it lies: (B, C, H, W) uint8 to (B, C, H', W') uint8.

Each augmentation draws its randomness on the CPU, one row of numbers for each image, and is then a function of images
and rows. So a row may be drawn for every image of all processes and used for some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from .random_boxes import boxes_to_blank, boxes_to_see

__all__ = [
    "BatchAugmentation",
    "RandomCrops",
    "RandomErasures",
    "RandomFlips",
    "RandomResizedCrops",
    "batch_augmentations",
]


class BatchAugmentation(Protocol):
    """What is done to a batch of images of one size."""

    def draw(self, rng: np.random.Generator, count: int, size: Sequence[int]) -> np.ndarray:
        """Return a row of numbers, (count, n), for each of `count` images of `size` (height, width)."""
        ...

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the augmented images; `drawn`, (B, n), lies on their device."""
        ...


@dataclass(frozen=True)
class RandomCrops:
    """Add `pad` pixels on every side, zero or mirrored (``"reflect"``), and cut a square of `size` out of each image.

    Every place is equally likely.
    """

    size: int
    pad: int = 0
    mode: str = "zero"

    def draw(self, rng: np.random.Generator, count: int, size: Sequence[int]) -> np.ndarray:
        """Return top and left, in pixels of the padded image."""
        return rng.integers([side + 2 * self.pad - self.size + 1 for side in size], size=(count, 2))

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Pad and crop."""
        padded = self._padded(images)
        # a view: (B, C, top, left, size, size)
        places = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        return places[torch.arange(len(images), device=images.device), :, drawn[:, 0], drawn[:, 1]]

    def _padded(self, images: Tensor) -> Tensor:
        if self.mode == "zero":
            return F.pad(images, 4 * (self.pad,))
        rows, columns = (
            torch.from_numpy(np.pad(np.arange(side), self.pad, mode="reflect")).to(images.device)
            for side in images.shape[2:]
        )
        return images.index_select(2, rows).index_select(3, columns)


@dataclass(frozen=True)
class RandomFlips:
    """Mirror each image left to right with probability 1/2."""

    def draw(self, rng: np.random.Generator, count: int, size: Sequence[int]) -> np.ndarray:
        """Return whether."""
        return rng.random((count, 1)) < 0.5

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Mirror some."""
        return torch.where(drawn[:, :, None, None], images.flip(3), images)


@dataclass(frozen=True)
class RandomResizedCrops:
    """Resize a random part of each image to a square of `size`: bilinear, with anti-aliasing.

    Args:
        size: pixels of a side.
        scale: the least and the greatest share of the image's area, see `boxes_to_see`.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)

    def draw(self, rng: np.random.Generator, count: int, size: Sequence[int]) -> np.ndarray:
        """Return top, left, height and width in pixels."""
        return boxes_to_see(rng, count, (size[0], size[1]), self.scale)

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Crop and resize."""
        top, left, height, width = drawn.T
        vertical = _resampling(top, height, images.shape[2], self.size)[:, None]
        horizontal = _resampling(left, width, images.shape[3], self.size)[:, None]
        resized = vertical @ images.float() @ horizontal.transpose(2, 3)
        return resized.round().clamp(0, 255).to(torch.uint8)


def _resampling(start: Tensor, length: Tensor, old: int, new: int) -> Tensor:
    """The matrices (B, new, old) that resize `length` pixels from `start` on to `new`, with a triangle as filter.

    The triangle is as wide as a new pixel and its neighbours, at least as an old one and its neighbours.
    """
    scale = (length / new)[:, None, None]
    steps = torch.arange(new, device=start.device)[None, :, None] + 0.5
    pixels = torch.arange(old, device=start.device)[None, None, :]
    first, behind = start[:, None, None], (start + length)[:, None, None]
    distance = (pixels + 0.5 - first - steps * scale).abs() / scale.clamp(min=1)
    weights = (1 - distance).clamp(min=0) * ((pixels >= first) & (pixels < behind))
    return weights / weights.sum(2, keepdim=True)


@dataclass(frozen=True)
class RandomErasures:
    """Fill a rectangle of an image with a colour (C values), with a probability; see `boxes_to_blank`."""

    probability: float
    colour: tuple[int, ...]

    def draw(self, rng: np.random.Generator, count: int, size: Sequence[int]) -> np.ndarray:
        """Return top, left, height and width in pixels; of no height: nothing is erased."""
        boxes = boxes_to_blank(rng, count, (size[0], size[1]))
        boxes[rng.random(count) >= self.probability] = 0
        return boxes

    def __call__(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Fill the rectangles."""
        top, left, height, width = drawn.T
        inside = [_inside(top, height, images.shape[2]), _inside(left, width, images.shape[3])]
        colour = torch.tensor(self.colour, dtype=images.dtype, device=images.device)
        return torch.where(
            (inside[0][:, :, None] & inside[1][:, None, :])[:, None], colour[:, None, None], images
        )


def _inside(start: Tensor, length: Tensor, pixels: int) -> Tensor:
    """Which pixels of a side lie in an interval, (B, pixels)."""
    at = torch.arange(pixels, device=start.device)
    return (at >= start[:, None]) & (at < (start + length)[:, None])


def batch_augmentations(cfg: CfgNode, size: tuple[int, int]) -> list[BatchAugmentation]:
    """Return what ``INPUT.CLASSIFICATION`` asks for in training, in the order of `mapper_for_training`.

    Args:
        cfg: its values were checked, by building the mapper.
        size: height and width of the images.

    Raises:
        ValueError: an augmentation that is not there for batches, or images that are too small.
    """
    node = cfg.INPUT.CLASSIFICATION
    alone = {"COLOR_JITTER": node.COLOR_JITTER, "RAND_AUGMENT.OPERATIONS": node.RAND_AUGMENT.OPERATIONS}
    for key, value in alone.items():
        if value:
            raise ValueError(
                f"INPUT.CLASSIFICATION.{key} {value} is done image by image: set INPUT.CLASSIFICATION.LOADER to "
                "'workers'"
            )
    made: list[BatchAugmentation] = []
    if node.CROP and node.AUGMENTATION == "resized_crop":
        made += [RandomResizedCrops(node.CROP, (node.SCALE[0], node.SCALE[1]))]
    elif node.CROP:
        _check_sizes(node, size)
        made += [RandomCrops(node.CROP, node.PAD, node.PAD_MODE)]
    made += [RandomFlips()] if node.FLIP else []
    if node.ERASE:
        colour = tuple(min(max(round(value), 0), 255) for value in cfg.MODEL.PIXEL_MEAN)
        made += [RandomErasures(node.ERASE, colour)]
    return made


def _check_sizes(node: CfgNode, size: tuple[int, int]) -> None:
    if node.PAD_MODE == "reflect" and min(size) <= node.PAD:
        raise ValueError(
            f"the images have {size[0]} x {size[1]} pixels, too few to mirror {node.PAD} of them: set a smaller "
            "INPUT.CLASSIFICATION.PAD, or PAD_MODE to 'zero'"
        )
    if min(size) + 2 * node.PAD < node.CROP:
        raise ValueError(
            f"the images have {size[0]} x {size[1]} pixels and a PAD of {node.PAD} where they are to be cropped to "
            f"{node.CROP} x {node.CROP}: set INPUT.CLASSIFICATION.RESIZE, or a smaller CROP"
        )
