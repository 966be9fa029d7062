"""From a dataset's dict to a classifier's sample: read, prepare, augment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from PIL import Image

from ..data.problems import DatasetError
from .augmentations import Augmentation, CentreCrop, Pad, RandomCrop, RandomFlip, Resize, in_turn

__all__ = ["ClassificationMapper", "mapper_for_tests", "mapper_for_training"]

_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


class ClassificationMapper:
    """Reads ``file_name`` and adds ``image``, uint8 (C, H, W), and its ``format`` to a dict, which keeps its own keys:
    ``image_id``, ``label`` and, of a set with queries and a gallery, ``role``.

    Args:
        image_format: "RGB" or "BGR", the order of the channels.
        prepare: applied first; always the same for an image.
        augment: applied then; may be random.
        cache: keep prepared images in memory, in each process that reads.
    """

    def __init__(
        self,
        image_format: str,
        *,
        prepare: Sequence[Augmentation] = (),
        augment: Sequence[Augmentation] = (),
        cache: bool = False,
    ) -> None:
        self.image_format, self.prepare, self.augment = image_format, tuple(prepare), tuple(augment)
        self._kept: dict[str, np.ndarray] | None = {} if cache else None

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the sample.

        Raises:
            DatasetError: the image cannot be read, or is too small to be cropped; names it.
        """
        file = record["file_name"]
        try:
            pixels = in_turn(self.augment, self._prepared(file))
        except ValueError as error:
            raise DatasetError(f"{file}: {error}") from error
        image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))
        return {**record, "image": image, "format": self.image_format}

    def _prepared(self, file: str) -> np.ndarray:
        if self._kept is not None and file in self._kept:
            return self._kept[file]
        try:
            pixels = read_image(file, format=self.image_format)
        except _UNREADABLE as error:
            text = str(error).replace(file, "it")
            raise ValueError(
                f"the image cannot be read ({text}): replace it or take it out of its folder"
            ) from error
        pixels = in_turn(self.prepare, pixels)
        if self._kept is not None:
            self._kept[file] = np.ascontiguousarray(pixels)
        return pixels


def mapper_for_training(cfg: CfgNode) -> ClassificationMapper:
    """Return the mapper for training: resize, pad, random crop, random flip, as ``INPUT.CLASSIFICATION`` says.

    Raises:
        ValueError: a value that makes no sense.
    """
    node = _checked(cfg)
    augment: list[Augmentation] = []
    if node.CROP:
        augment += [Pad(node.PAD, node.PAD_MODE)] if node.PAD else []
        augment += [RandomCrop(node.CROP)]
    if node.FLIP:
        augment += [RandomFlip()]
    return ClassificationMapper(cfg.INPUT.FORMAT, prepare=_resize(node), augment=augment, cache=node.CACHE)


def mapper_for_tests(cfg: CfgNode) -> ClassificationMapper:
    """Return the mapper for tests: resize, and the middle of ``CROP`` pixels.

    Raises:
        ValueError: a value that makes no sense.
    """
    node = _checked(cfg)
    crop: list[Augmentation] = [CentreCrop(node.CROP)] if node.CROP else []
    return ClassificationMapper(cfg.INPUT.FORMAT, prepare=_resize(node), augment=crop)


def _resize(node: CfgNode) -> list[Augmentation]:
    return [Resize(node.RESIZE)] if node.RESIZE else []


def _checked(cfg: CfgNode) -> CfgNode:
    node = cfg.INPUT.CLASSIFICATION
    for key in ("CROP", "PAD", "RESIZE"):
        if node[key] < 0:
            raise ValueError(f"INPUT.CLASSIFICATION.{key} is {node[key]}: pixels, or 0 for none")
    if node.RESIZE and node.RESIZE < node.CROP:
        raise ValueError(
            f"INPUT.CLASSIFICATION.RESIZE {node.RESIZE} is smaller than CROP {node.CROP}: images would be too small"
        )
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ValueError(f"INPUT.FORMAT {cfg.INPUT.FORMAT!r}: a classifier's images are 'RGB' or 'BGR'")
    return node
