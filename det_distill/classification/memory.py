"""Small data sets that lie decoded in the memory of the training's device and are augmented there, a batch at once."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import Dataset

from ..data.loader import Token, token_batches
from ..data.problems import DatasetError
from .batch_augmentations import BatchAugmentation

__all__ = ["DecodedImages", "MemoryLoader", "MiddleOfEach", "decoded"]

logger = logging.getLogger(__name__)

_TOGETHER = 1024  # images that are brought to the device at once


@dataclass(frozen=True)
class DecodedImages:
    """All images of a data set.

    Attributes:
        pixels: uint8 (N, C, H, W).
        samples: what a mapper makes of each dict, without ``image``.
    """

    pixels: Tensor
    samples: Sequence[dict[str, Any]]


def decoded(
    dicts: Sequence[dict[str, Any]],
    mapper: Callable[[dict[str, Any]], dict[str, Any]],
    device: torch.device,
    *,
    threads: int = 0,
) -> DecodedImages:
    """Read all images and bring them to a device.

    Args:
        dicts: of the data set; none (a test set with fewer images than processes) give ``pixels`` (0, 1, 0, 0).
        mapper: makes samples of them, with ``image`` uint8 (C, H, W).
        device: where the pixels will lie.
        threads: that read; 0: one after the other, in this one.

    Raises:
        ValueError: the images have different sizes, or would not fit into the device's memory.
        DatasetError: an image cannot be read.
    """
    if not dicts:
        return DecodedImages(torch.empty((0, 1, 0, 0), dtype=torch.uint8, device=device), ())
    first = mapper(dicts[0])["image"]
    _check_room(len(dicts) * first.numel(), f"{len(dicts)} images of {_size(first)}", device)
    pixels = torch.empty((len(dicts), *first.shape), dtype=torch.uint8, device=device)
    samples: list[dict[str, Any]] = []
    for chunk in _chunks(_mapped(dicts, mapper, threads)):
        images = []
        for sample in chunk:
            image = sample.pop("image")
            if image.shape != first.shape:
                raise DatasetError(
                    f"INPUT.CLASSIFICATION.LOADER 'memory' needs images of one size, but {_name(sample)} has "
                    f"{_size(image)} where {_name(dicts[0])} has {_size(first)}: set LOADER to 'workers', or prepare "
                    "images of one size (RESIZE keeps their proportions)"
                )
            images.append(image)
        pixels[len(samples) : len(samples) + len(chunk)] = torch.stack(images).to(device)
        samples += chunk
    logger.info("%d images of %s lie on %s: %s", len(dicts), _size(first), device, _bytes(pixels.nbytes))
    return DecodedImages(pixels, samples)


def _mapped(
    dicts: Sequence[dict[str, Any]], mapper: Callable[[dict[str, Any]], dict[str, Any]], threads: int
) -> Iterator[dict[str, Any]]:
    if not threads:
        yield from map(mapper, dicts)
        return
    with ThreadPoolExecutor(threads) as pool:
        for chunk in _chunks(dicts):
            yield from pool.map(mapper, chunk)


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    while chunk := list(itertools.islice(rest, _TOGETHER)):
        yield chunk


def _check_room(needed: int, what: str, device: torch.device) -> None:
    free = _free_bytes(device)
    if free is not None and needed > free:
        raise ValueError(
            f"INPUT.CLASSIFICATION.LOADER 'memory': {what} need {_bytes(needed)}, but {device} has {_bytes(free)} "
            "free: set LOADER to 'workers'"
        )


def _free_bytes(device: torch.device) -> int | None:
    """The memory that is free on a device; None: not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if device.type == "cpu" and info.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _size(image: Tensor) -> str:
    return " x ".join(map(str, image.shape))


def _name(record: dict[str, Any]) -> str:
    return str(record.get("file_name", record.get("image_id")))


class MemoryLoader:
    """An infinite iterable of batches (lists of dicts); each ``iter()`` starts at batch `start`.

    What is drawn for the batch with number n, of all processes together, is a function of seed and n, and a process
    takes the rows of its own images. So a loader that starts late goes on as the one from the beginning, and several
    processes see together what one would see. ``image`` is a part of the augmented batch, on the images' device.

    Args:
        images: the data set.
        augmentations: in turn.
        sampler: makes, from a seed, the endless stream of this rank's indices.
        batch_size: images per batch on this rank.
        seed: returns the seed; called at ``iter()``, so that a resumed run can bring its own.
    """

    def __init__(
        self,
        images: DecodedImages,
        augmentations: Sequence[BatchAugmentation],
        sampler: Callable[[int], Iterator[int]],
        *,
        batch_size: int,
        seed: Callable[[], int],
    ) -> None:
        self.start = 0
        self._images, self._augmentations = images, tuple(augmentations)
        self._sampler, self._batch_size, self._seed = sampler, batch_size, seed

    def batches(self) -> Iterator[list[Token]]:
        """Return this rank's batches of (position in the stream, index), from the very first on."""
        return token_batches(self._sampler(self._seed()), self._batch_size)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        seed = self._seed() & 0xFFFFFFFF
        for number, tokens in enumerate(itertools.islice(self.batches(), self.start, None), self.start):
            indices = [index for _, index in tokens]
            images = self._augmented(indices, np.random.default_rng((seed, 2, number)))
            samples = (self._images.samples[index] for index in indices)
            yield [{**sample, "image": image} for sample, image in zip(samples, images, strict=True)]

    def _augmented(self, indices: Sequence[int], rng: np.random.Generator) -> Tensor:
        device, rank, world = self._images.pixels.device, comm.get_rank(), comm.get_world_size()
        images = self._images.pixels[torch.tensor(indices, device=device)]
        for augmentation in self._augmentations:
            drawn = augmentation.draw(rng, self._batch_size * world, images.shape[2:])
            images = augmentation(images, torch.from_numpy(drawn[rank::world]).to(device))
        return images


class MiddleOfEach(Dataset):
    """The samples of a test: of each image a square from the middle, a view of what lies in memory.

    Args:
        images: the data set.
        crop: pixels of a side, at most those of the images; 0: whole images.

    Raises:
        ValueError: the images are too small.
    """

    def __init__(self, images: DecodedImages, crop: int) -> None:
        height, width = images.pixels.shape[2:]
        if images.samples and min(height, width) < crop:
            raise ValueError(
                f"the images have {height} x {width} pixels where they are to be cropped to {crop} x {crop}: set "
                "INPUT.CLASSIFICATION.RESIZE, or a smaller CROP"
            )
        top, left = ((side - crop) // 2 if crop else 0 for side in (height, width))
        self._pixels = images.pixels[:, :, top : top + (crop or height), left : left + (crop or width)]
        self._samples = images.samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._samples[index], "image": self._pixels[index]}
