"""The same batches of images for every network of a report."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch.utils.data import ConcatDataset, DataLoader

from ..engine import Trainer
from ..tasks import task_of

__all__ = ["check_data", "labelled_batches", "shuffled_batches"]

Batch = list[dict[str, Any]]


def check_data(cfg: CfgNode, names: Sequence[str]) -> tuple[str, ...]:
    """Return `names`, or the config's training data if there are none.

    Raises:
        ValueError: a data set that is not registered, or none at all.
    """
    chosen = tuple(names or cfg.DATASETS.TRAIN)
    if not chosen:
        raise ValueError("no data: the config's DATASETS.TRAIN is empty, name a data set with --data")
    unknown = [name for name in chosen if name not in DatasetCatalog.list()]
    if unknown:
        own = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *_registered_by(cfg)])
        raise ValueError(f"unknown data set {', '.join(unknown)}; the config has: {', '.join(own) or 'none'}")
    return chosen


def _registered_by(cfg: CfgNode) -> list[str]:
    return [name for node in cfg.DATASETS.values() if isinstance(node, CfgNode) for name in node]


def shuffled_batches(cfg: CfgNode, names: Sequence[str], count: int, *, seed: int) -> Iterable[Batch]:
    """Return an iterable of `count` batches of ``SOLVER.IMS_PER_BATCH`` images, prepared as in a test.

    The images are those of all data sets in an order that the seed determines, each once before any comes again.
    They are resized as the config's tests do, not augmented, and bring no labels. Iterating again gives the same.

    Raises:
        ValueError: the data sets hold no image.
    """
    loaders: list[Any] = [Trainer.build_test_loader(cfg, name) for name in names]
    images: ConcatDataset = ConcatDataset([loader.dataset for loader in loaders])
    if not len(images):
        raise ValueError(f"{', '.join(names)}: no image in there")
    order = _order(len(images), torch.Generator().manual_seed(seed))
    batches = [[next(order) for _ in range(cfg.SOLVER.IMS_PER_BATCH)] for _ in range(count)]
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=loaders[0].num_workers,  # none where images lie on a GPU
        collate_fn=list,
        generator=torch.Generator(),
    )


def labelled_batches(cfg: CfgNode, names: Sequence[str], count: int, *, seed: int) -> Iterator[Batch]:
    """Yield the first `count` training batches of these data sets: augmented and with labels, the same every time."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = tuple(names)
    yield from itertools.islice(task_of(cfg).train_loader(cfg, lambda: seed), count)


def _order(length: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(length, generator=generator).tolist()
