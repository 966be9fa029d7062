"""What happens to an image on its way to a classifier: functions from uint8 (C, H, W) to uint8 (C, H, W).

Images are RGB or have one channel: the colour augmentations of ``torchvision.transforms.v2`` weigh channels in that
order. Randomness comes from torch's global generator alone, which the training loader seeds for each image. What
torchvision does, it does here; the classes of this file are those operations that must not do what it would: fill up
an image that is too small, or say so without naming a key of the config.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torchvision.transforms import v2

__all__ = ["Augmentation", "CentreCrop", "Pad", "RandomCrop", "augmentation", "in_turn", "resizing"]

Augmentation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pad:
    """Add `size` pixels on every side: black (``"zero"``), or the image mirrored at its edge (``"reflect"``)."""

    size: int
    mode: Literal["zero", "reflect"] = "zero"

    def __call__(self, image: Tensor) -> Tensor:
        """Pad.

        Raises:
            ValueError: the image has too few pixels to be mirrored.
        """
        if self.mode == "zero":
            return v2.functional.pad(image, [self.size])
        if min(image.shape[-2:]) <= self.size:
            raise ValueError(
                f"the image has {_pixels(image)} pixels, too few to mirror {self.size} of them: set a smaller "
                "INPUT.CLASSIFICATION.PAD, or PAD_MODE to 'zero'"
            )
        return v2.functional.pad(image, [self.size], padding_mode="reflect")


@dataclass(frozen=True)
class RandomCrop:
    """Cut a square of `size` pixels out of the image, every place equally likely.

    Attributes:
        size: ``INPUT.CLASSIFICATION.CROP``.
        given: what the image's size was made with, for the error: "RESIZE 0 and PAD 4"; "": nothing is said.
    """

    size: int
    given: str = ""

    def __call__(self, image: Tensor) -> Tensor:
        """Crop.

        Raises:
            ValueError: the image is too small.
        """
        return _crop(image, self.size, self.given, lambda room: int(torch.randint(room + 1, ())))


@dataclass(frozen=True)
class CentreCrop:
    """Cut a square of `size` pixels out of the middle; an odd pixel is left at the bottom and the right.

    Attributes: those of `RandomCrop`.
    """

    size: int
    given: str = ""

    def __call__(self, image: Tensor) -> Tensor:
        """Crop.

        Raises:
            ValueError: the image is too small.
        """
        return _crop(image, self.size, self.given, lambda room: room // 2)


def resizing(node: CfgNode) -> list[Augmentation]:
    """Return what ``RESIZE`` of ``INPUT.CLASSIFICATION`` asks for: the shorter side, bilinear with anti-aliasing."""
    return [v2.Resize(node.RESIZE, antialias=True)] if node.RESIZE else []


def augmentation(node: CfgNode, blank: Sequence[float]) -> list[Augmentation]:
    """Return the random part of training, in the order of the keys of ``INPUT.CLASSIFICATION``.

    Args:
        node: checked already.
        blank: the colour (0 to 255, a value per channel) of what RandAugment leaves empty and of what is erased.
    """
    steps: list[Augmentation] = []
    colour = [float(min(max(round(value), 0), 255)) for value in blank]
    if node.AUGMENTATION == "resized_crop":
        steps += [
            v2.RandomResizedCrop(node.CROP, scale=tuple(node.SCALE), ratio=(3 / 4, 4 / 3), antialias=True)
        ]
    elif node.CROP:
        steps += [Pad(node.PAD, node.PAD_MODE)] if node.PAD else []
        steps += [RandomCrop(node.CROP, f"RESIZE {node.RESIZE} and PAD {node.PAD}")]
    if node.FLIP:
        steps += [v2.RandomHorizontalFlip()]
    if node.COLOR_JITTER:
        steps += [v2.ColorJitter(*(3 * [node.COLOR_JITTER]))]
    if node.RAND_AUGMENT.OPERATIONS:
        steps += [
            v2.RandAugment(
                node.RAND_AUGMENT.OPERATIONS,
                node.RAND_AUGMENT.MAGNITUDE,
                num_magnitude_bins=31,
                interpolation=v2.InterpolationMode.BILINEAR,
                fill=colour,
            )
        ]
    if node.ERASE:
        steps += [v2.RandomErasing(node.ERASE, value=colour)]
    return steps


def in_turn(augmentations: Sequence[Augmentation], image: Tensor) -> Tensor:
    """Return the image after all of them."""
    for step in augmentations:
        image = step(image)
    return image


def _crop(image: Tensor, size: int, given: str, place: Callable[[int], int]) -> Tensor:
    """Cut a square out; `place` says how far it moves down, and right, of the pixels that it can."""
    height, width = image.shape[-2:]
    if min(height, width) < size:
        raise ValueError(
            f"the image has {_pixels(image)} pixels{given and f' with {given}'} where INPUT.CLASSIFICATION.CROP is "
            f"{size}: set RESIZE to at least {size}, or a smaller CROP"
        )
    return v2.functional.crop(image, place(height - size), place(width - size), size, size)


def _pixels(image: Tensor) -> str:
    return " x ".join(map(str, image.shape[-2:]))
