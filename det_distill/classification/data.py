"""The loaders of a classifier that a config describes: a resumable one for training, one for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from torch.utils.data import DataLoader

from ..data.identity_sampler import IdentitySampler
from ..data.loader import ResumableLoader, images_per_process, training_sampler
from .mapper import mapper_for_tests, mapper_for_training

__all__ = ["build_test_loader", "build_train_loader"]


def build_train_loader(cfg: CfgNode, seed: Callable[[], int]) -> ResumableLoader:
    """Build the training loader: endless, exactly resumable, augmentation seeded by the place in the stream.

    ``DATALOADER.SAMPLER_TRAIN`` may be any of detectron2's, whose repeat factors count images per class, or
    "IdentitySampler": batches with several images of each class (``DATALOADER.IDENTITY_SAMPLER``).

    Args:
        cfg: DATASETS.TRAIN, SOLVER.IMS_PER_BATCH, DATALOADER, INPUT.
        seed: returns the seed.

    Raises:
        ValueError: no training data or none of labelled images, an unknown sampler, or a batch that cannot be shared
            among the processes.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name training data")
    dicts = [record for name in cfg.DATASETS.TRAIN for record in _labelled(name)]
    return ResumableLoader(
        dicts,
        mapper_for_training(cfg),
        _sampler(cfg, dicts),
        batch_size=images_per_process(cfg),
        group_by_aspect_ratio=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=seed,
    )


def _sampler(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> Callable[[int], Iterator[int]]:
    if cfg.DATALOADER.SAMPLER_TRAIN != "IdentitySampler":
        return training_sampler(cfg, [{"annotations": [{"category_id": d["label"]}]} for d in dicts])

    def stream(seed: int) -> IdentitySampler:
        return IdentitySampler(
            [d["label"] for d in dicts],
            images_per_process(cfg),
            per_identity=cfg.DATALOADER.IDENTITY_SAMPLER.PER_IDENTITY,
            random_images=cfg.DATALOADER.IDENTITY_SAMPLER.RANDOM_IMAGES,
            seed=seed,
        )

    stream(0)  # what does not fit is told now
    return lambda seed: iter(stream(seed))


def build_test_loader(cfg: CfgNode, name: str) -> DataLoader:
    """Build the loader of a test set: every image once, shared among the processes.

    Batches are those of training; of one image where images are not cropped to one size.

    Raises:
        ValueError: no labelled images, or a batch that cannot be shared among the processes.
    """
    dataset = MapDataset(DatasetFromList(_labelled(name), copy=False), mapper_for_tests(cfg))
    return DataLoader(
        dataset,
        batch_size=images_per_process(cfg) if cfg.INPUT.CLASSIFICATION.CROP else 1,
        sampler=InferenceSampler(len(dataset)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
        generator=torch.Generator(),  # the loader draws a seed; not from the run's stream
    )


def _labelled(name: str) -> list[dict[str, Any]]:
    dicts: list[dict[str, Any]] = DatasetCatalog.get(name)
    if not dicts or "label" not in dicts[0]:
        raise ValueError(
            f"the dataset {name!r} has no images with a class of their own: a classifier needs one of "
            "DATASETS.IMAGES"
        )
    return dicts
