"""From a dataset's dict to a classifier's sample: read, prepare, augment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import read_image
from PIL import Image
from torch import Tensor

from ..data.images import read_header
from ..data.pillow_formats import refuse_postscript
from ..data.problems import DatasetError
from .augmentations import Augmentation, CentreCrop, augmentation, in_turn, resizing
from .image_keys import checked

__all__ = ["ClassificationMapper", "mapper_for_tests", "mapper_for_training"]

_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


class ClassificationMapper:
    """Adds ``image``, uint8 (C, H, W), and its ``format`` to a dict, which keeps its own keys: ``image_id``, ``label``
    and, of a set with queries and a gallery, ``role``.

    The pixels are those of the file ``file_name``, or of ``pixels``, uint8 (H, W) gray or (H, W, 3) RGB, which the
    sample does not keep. Gray images get three equal channels where colour is asked for, and colour becomes gray where
    one channel is.

    Args:
        image_format: "RGB" or "BGR", the order of the channels; "L": one channel.
        prepare: applied first; always the same for an image.
        augment: applied then; may be random. Both see RGB or one channel, whatever the format.
        cache: keep prepared images of files in memory, in each process that reads.
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
        self._kept: dict[str, Tensor] | None = {} if cache else None

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return the sample.

        Raises:
            DatasetError: the image cannot be read, or is too small to be cropped; names it, and its own size.
        """
        try:
            prepared = self._prepared(record)
        except ValueError as error:
            raise DatasetError(f"{_name(record)}: {error}") from error
        try:
            image = in_turn(self.augment, prepared)
        except ValueError as error:
            raise DatasetError(f"{_name(record)} ({_size(record)} pixels): {error}") from error
        # a copy: neither a view of a larger image, which would travel with it, nor what the cache holds
        image = (
            image.flip(0)
            if self.image_format == "BGR"
            else image.clone(memory_format=torch.contiguous_format)
        )
        own = {key: value for key, value in record.items() if key != "pixels"}
        return {**own, "image": image, "format": self.image_format}

    def _prepared(self, record: dict[str, Any]) -> Tensor:
        """RGB or one channel."""
        order = "L" if self.image_format == "L" else "RGB"
        if "pixels" in record:
            return in_turn(self.prepare, _tensor(_in_order(record["pixels"], order)))
        file = record["file_name"]
        if self._kept is not None and file in self._kept:
            return self._kept[file]
        refuse_postscript()
        try:
            pixels = read_image(file, format=order)
        except _UNREADABLE as error:
            text = re.sub(r" <\S+ name='it'>", "", str(error).replace(file, "it"))
            raise ValueError(
                f"the image cannot be read ({text}): replace it or take it out of its folder"
            ) from error
        image = in_turn(self.prepare, _tensor(pixels))
        if self._kept is not None:
            self._kept[file] = image
        return image


def mapper_for_training(cfg: CfgNode) -> ClassificationMapper:
    """Return the mapper for training: resized, cropped and augmented as ``INPUT.CLASSIFICATION`` says.

    With ``AUGMENTATION: "resized_crop"`` images are not resized before they are cropped.

    Raises:
        ValueError: a value that makes no sense.
    """
    node = checked(cfg)
    blank = cfg.MODEL.PIXEL_MEAN[::-1] if cfg.INPUT.FORMAT == "BGR" else cfg.MODEL.PIXEL_MEAN
    return ClassificationMapper(
        cfg.INPUT.FORMAT,
        prepare=[] if node.AUGMENTATION == "resized_crop" else resizing(node),
        augment=augmentation(node, blank),
        cache=node.CACHE,
    )


def mapper_for_tests(cfg: CfgNode) -> ClassificationMapper:
    """Return the mapper for tests: resize, and the middle of ``CROP`` pixels.

    Raises:
        ValueError: a value that makes no sense.
    """
    node = checked(cfg)
    crop: list[Augmentation] = [CentreCrop(node.CROP, f"RESIZE {node.RESIZE}")] if node.CROP else []
    return ClassificationMapper(cfg.INPUT.FORMAT, prepare=resizing(node), augment=crop)


def _in_order(pixels: np.ndarray, order: str) -> np.ndarray:
    """(H, W) or (H, W, 3) as (H, W, 1) or (H, W, 3), as Pillow converts them."""
    if pixels.ndim == (2 if order == "L" else 3):
        return pixels.reshape(*pixels.shape[:2], -1)
    converted = np.asarray(Image.fromarray(pixels).convert(order))
    return converted.reshape(*pixels.shape[:2], -1)


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def _size(record: dict[str, Any]) -> str:
    """Height and width of an image that could be read, before anything was done to it."""
    if "pixels" in record:
        height, width = record["pixels"].shape[:2]
        return f"{height} x {width}"
    header = read_header(Path(record["file_name"]))
    return f"{header.height} x {header.width}"


def _name(record: dict[str, Any]) -> str:
    return str(record["file_name"] if "file_name" in record else record.get("image_id", "an image"))
