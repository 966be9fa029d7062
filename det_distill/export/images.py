"""The images that an exported file is compared on: real ones wherever there are any, at several sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from torch import Tensor

from ..classification.mapper import mapper_for_tests
from ..data.problems import DatasetError
from ..tasks import task_of

__all__ = ["ANY_SIZE", "at_several_sizes", "first_images", "images_to_compare", "read_as_in_a_test"]

ANY_SIZE = (192, 256)
"""Height and width of noise for networks that do not say which they want."""

_SCALES = ((1.0, 1.0), (0.75, 0.75), (0.5, 0.8))
"""Of height and width: as in a test, smaller, and of another shape."""


def images_to_compare(cfg: CfgNode, side: int = 0, files: Sequence[Tensor] = ()) -> tuple[list[Tensor], str]:
    """Return images at several sizes and, for a person, what they are.

    Args:
        cfg: a run's config.
        side: height and width of the only images that the network takes; 0: any will do.
        files: (C, H, W), 0 to 255, as in a test; default: the first of ``DATASETS.TEST``, or noise, if there are none.
    """
    images, source = list(files), "the given image" if len(files) == 1 else "the given images"
    if not images:
        try:
            images = list(islice(first_images(cfg, cfg.DATASETS.TEST), len(_SCALES)))
            source = f"images of {cfg.DATASETS.TEST[0]}"
        except _UNREADABLE as error:
            images = [_noise(len(cfg.MODEL.PIXEL_MEAN), side)]
            source = f"noise and no photos ({error}; name photos with --image)"
    if not side:
        images = at_several_sizes(images)
    sizes = ", ".join(dict.fromkeys(f"{image.shape[1]} x {image.shape[2]}" for image in images))
    return images, f"{source}, height x width {sizes}"


_UNREADABLE = (DatasetError, OSError)


def first_images(cfg: CfgNode, names: Sequence[str]) -> Iterator[Tensor]:
    """Yield the images of the first of some data sets, (C, H, W) uint8, prepared as for a test.

    Raises:
        DatasetError: there is no such data set, or its files cannot be used.
        OSError: its files are not there.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.CLASSIFICATION.LOADER = 0, "workers"
    if not names:
        raise DatasetError("the config names no data set for it")
    try:
        loader: Iterable[list[dict[str, Any]]] = task_of(cfg).test_loader(cfg, names[0])
    except (KeyError, AssertionError) as error:
        raise DatasetError(f"the data set {names[0]!r} cannot be read: {error.args[0]}") from error
    for batch in loader:
        yield from (sample["image"] for sample in batch)


def at_several_sizes(images: Sequence[Tensor]) -> list[Tensor]:
    """Return at least one image of every scale of `_SCALES`, and every image at one of them."""
    count = max(len(images), len(_SCALES))
    return [_resized(images[i % len(images)], *_SCALES[i % len(_SCALES)]) for i in range(count)]


def read_as_in_a_test(path: str, cfg: CfgNode) -> Tensor:
    """Return an image file as the model sees it in a test, (C, H, W) uint8."""
    if not task_of(cfg).finds_boxes:
        image: Tensor = mapper_for_tests(cfg)({"file_name": path})["image"]
        return image
    pixels = read_image(path, format=cfg.INPUT.FORMAT)
    shortest = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    pixels = shortest.get_transform(pixels).apply_image(pixels)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _noise(channels: int, side: int) -> Tensor:
    height, width = (side, side) if side else ANY_SIZE
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (channels, height, width), generator=noise, dtype=torch.uint8)


def _resized(image: Tensor, tall: float, wide: float) -> Tensor:
    if tall == wide == 1:
        return image
    size = max(1, round(image.shape[1] * tall)), max(1, round(image.shape[2] * wide))
    found = F.interpolate(image[None].float(), size, mode="bilinear", align_corners=False, antialias=True)
    return found[0].round().clamp(0, 255).to(torch.uint8)
