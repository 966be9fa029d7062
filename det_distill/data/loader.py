"""A training loader that can start at any iteration and gives, from there, what it would have given anyway.

detectron2's own loader starts its shuffle again on resume, and groups images by shape after reading them, so that its
batches depend on what was read before. Here the stream of batches is made from the samplers' indices and
the data set's recorded sizes alone: skipping ahead reads no image. Augmentation draws from a generator
seeded by the image's position in the stream, whichever worker it runs in.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, DatasetMapper, get_detection_dataset_dicts
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from .worker_errors import Failure, Guarded, raised

__all__ = [
    "ResumableLoader",
    "TrainingLoader",
    "build_train_loader",
    "images_per_process",
    "seed_everything",
    "token_batches",
    "training_sampler",
]

_MAX_TRIES = 100
Token = tuple[int, int]


class TrainingLoader(Protocol):
    """An endless iterable of batches; each ``iter()`` starts at batch `start`, counted from 0."""

    start: int

    def __iter__(self) -> Iterator[list[dict[str, Any]]]: ...


def seed_everything(*numbers: int) -> None:
    """Seed Python's, numpy's and torch's generators, those of GPUs too, with a mix of `numbers`."""
    torch.manual_seed(_seed_python_and_numpy(*numbers))


def _seed_python_and_numpy(*numbers: int) -> int:
    """Seed two of the generators; return torch's seed."""
    words = np.random.SeedSequence([n & 0xFFFFFFFF for n in numbers]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    return int(words[2])


@contextmanager
def _seeded(*numbers: int) -> Iterator[None]:
    """Seed the generators (torch's for the CPU) inside the block and put them back after it."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # not torch.manual_seed: it concerns GPUs too, and where none is in use it writes down the call stack each time
    torch.default_generator.manual_seed(_seed_python_and_numpy(*numbers))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class _MappedByPosition(Dataset):
    """Maps (position in the stream, index) to a sample; the randomness is a function of seed and position."""

    def __init__(
        self, dicts: Sequence[dict[str, Any]], mapper: Callable[[dict], dict | None], seed: int
    ) -> None:
        self.dicts = DatasetFromList(list(dicts), copy=False)
        self.mapper = Guarded(mapper)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, token: Token) -> dict[str, Any] | Failure:
        position, index = token
        with _seeded(self.seed, position):
            for _ in range(_MAX_TRIES):
                sample = self.mapper(self.dicts[index])
                if sample is not None:
                    return sample
                index = random.randrange(len(self.dicts))
        raise RuntimeError(
            f"the mapper dropped {_MAX_TRIES} images in a row; is the data set empty after filtering?"
        )


def token_batches(
    indices: Iterable[int], batch_size: int, group: Callable[[int], Hashable] = lambda index: None
) -> Iterator[list[Token]]:
    """Yield this rank's batches of (position, index) from the stream of its indices.

    The position counts the images of all processes: the n-th index of this one has rank + n * (number of processes).

    Args:
        indices: the stream.
        batch_size: images per batch on this rank.
        group: says, for an index, with which others it may share a batch.
    """
    rank, world = comm.get_rank(), comm.get_world_size()
    groups: defaultdict[Hashable, list[Token]] = defaultdict(list)
    for count, index in enumerate(indices):
        tokens = groups[group(index)]
        tokens.append((rank + count * world, index))
        if len(tokens) == batch_size:
            yield list(tokens)
            tokens.clear()


class ResumableLoader:
    """An infinite iterable of batches (lists of dicts); each ``iter()`` starts at batch `start`.

    An image that cannot be read, or that the mapper refuses with a `DatasetError`, is a `DatasetError` here.

    Args:
        dicts: detectron2's data set dicts, with ``width`` and ``height`` if grouping is on.
        mapper: turns a dict into a sample; None drops the image and another one is drawn.
        sampler: makes, from a seed, the endless stream of this rank's indices.
        batch_size: images per batch on this rank.
        group_by_aspect_ratio: batches hold either wide or tall images, as in detectron2.
        num_workers: processes that read images; 0: read in this one.
        seed: returns the seed; called at ``iter()``, so that a resumed run can bring its own.
    """

    def __init__(
        self,
        dicts: Sequence[dict[str, Any]],
        mapper: Callable[[dict], dict | None],
        sampler: Callable[[int], Iterator[int]],
        *,
        batch_size: int,
        group_by_aspect_ratio: bool,
        num_workers: int,
        seed: Callable[[], int],
    ) -> None:
        self.start = 0
        self._dicts, self._mapper, self._sampler = dicts, mapper, sampler
        self._batch_size, self._num_workers, self._seed = batch_size, num_workers, seed
        self._is_wide = (
            [d["width"] > d["height"] for d in dicts] if group_by_aspect_ratio else [True] * len(dicts)
        )

    def batches(self) -> Iterator[list[Token]]:
        """Return this rank's batches of (position in the stream, index), from the very first on."""
        return token_batches(self._sampler(self._seed()), self._batch_size, self._is_wide.__getitem__)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        loader = DataLoader(
            _MappedByPosition(self._dicts, self._mapper, self._seed()),
            batch_sampler=itertools.islice(self.batches(), self.start, None),  # type: ignore[arg-type]
            num_workers=self._num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # the loader draws a seed; not from the run's stream
        )
        yield from map(raised, loader)


def build_train_loader(cfg: CfgNode, seed: Callable[[], int]) -> ResumableLoader:
    """Build the loader that a detectron2 config describes.

    Raises:
        ValueError: an unknown sampler, or a batch that cannot be shared among the processes.
    """
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=keypoints,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    return ResumableLoader(
        dicts,
        DatasetMapper(cfg, True),
        training_sampler(cfg, dicts),
        batch_size=images_per_process(cfg),
        group_by_aspect_ratio=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=seed,
    )


def images_per_process(cfg: CfgNode) -> int:
    """Return this process's share of a batch.

    Raises:
        ValueError: the batch cannot be shared evenly.
    """
    world = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH < world or cfg.SOLVER.IMS_PER_BATCH % world:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} must be a multiple of the {world} processes"
        )
    return int(cfg.SOLVER.IMS_PER_BATCH) // world


def training_sampler(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> Callable[[int], Iterator[int]]:
    """Return a function from a seed to the endless stream of this process's indices, as ``DATALOADER`` says.

    Args:
        cfg: gives SAMPLER_TRAIN and its options.
        dicts: what is sampled; repeat factors read ``category_id`` of their ``annotations``.

    Raises:
        ValueError: an unknown sampler.
    """
    name, size = cfg.DATALOADER.SAMPLER_TRAIN, len(dicts)
    if name == "TrainingSampler":
        return lambda seed: iter(TrainingSampler(size, seed=seed))
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return lambda seed: iter(RepeatFactorTrainingSampler(factors, seed=seed))
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return lambda seed: iter(
            RandomSubsetTrainingSampler(size, ratio, seed_shuffle=seed, seed_subset=seed)
        )
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN {name!r} is unknown: choose TrainingSampler, RepeatFactorTrainingSampler or "
        "RandomSubsetTrainingSampler"
    )
