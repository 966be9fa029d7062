"""The loaders of a classifier that a config describes: a resumable one for training, one for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MapDataset
from detectron2.data.detection_utils import check_metadata_consistency
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm

from ..data.identity_sampler import IdentitySampler
from ..data.loader import ResumableLoader, TrainingLoader, images_per_process, training_sampler
from ..data.worker_errors import Guarded, GuardedLoader
from .batch_augmentations import batch_augmentations
from .mapper import ClassificationMapper, mapper_for_tests, mapper_for_training
from .memory import DecodedImages, MemoryLoader, MiddleOfEach, decoded
from .mixed_loader import MixedLoader
from .mixing import mixer
from .size_check import first_size

__all__ = ["build_test_loader", "build_train_loader"]


def build_train_loader(cfg: CfgNode, seed: Callable[[], int]) -> TrainingLoader:
    """Build the training loader: endless, exactly resumable, all that is random seeded by the place in the stream.

    ``DATALOADER.SAMPLER_TRAIN`` may be any of detectron2's, whose repeat factors count images per class, or
    "IdentitySampler": batches with several images of each class (``DATALOADER.IDENTITY_SAMPLER``).
    ``INPUT.CLASSIFICATION.LOADER`` says where images are read and augmented; batches are the same images either way.

    Args:
        cfg: DATASETS.TRAIN, SOLVER.IMS_PER_BATCH, DATALOADER, INPUT.
        seed: returns the seed.

    Raises:
        ValueError: no training data or none of labelled images, sets of different classes, an unknown sampler or
            loader, a batch that cannot be shared among the processes; for "memory" see `decoded` and
            `batch_augmentations`.
        DatasetError: the first image of a set cannot be read, or is too small to be cropped.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ValueError("DATASETS.TRAIN is empty: name training data")
    mix, in_memory = mixer(cfg), _in_memory(cfg)
    dicts: list[dict[str, Any]] = []
    for name in names:
        dicts += (labelled := _labelled(name))
        first_size(name, labelled, mapper_for_training(cfg))
    if len(names) > 1:
        check_metadata_consistency("thing_classes", list(names))
    make = _memory_loader if in_memory else _reading_loader
    loader = make(cfg, dicts, _sampler(cfg, dicts), seed)
    return loader if mix is None else MixedLoader(loader, mix, seed)


Sampler = Callable[[int], Iterator[int]]


def _reading_loader(
    cfg: CfgNode, dicts: Sequence[dict[str, Any]], sampler: Sampler, seed: Callable[[], int]
) -> ResumableLoader:
    return ResumableLoader(
        dicts,
        mapper_for_training(cfg),
        sampler,
        batch_size=images_per_process(cfg),
        group_by_aspect_ratio=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=seed,
    )


def _memory_loader(
    cfg: CfgNode, dicts: Sequence[dict[str, Any]], sampler: Sampler, seed: Callable[[], int]
) -> MemoryLoader:
    mapper, batch_size = mapper_for_training(cfg), images_per_process(cfg)
    reader = ClassificationMapper(cfg.INPUT.FORMAT, prepare=mapper.prepare)
    height, width = reader(dicts[0])["image"].shape[1:]
    augmentations = batch_augmentations(cfg, (height, width))
    return MemoryLoader(
        _decoded(cfg, dicts, reader), augmentations, sampler, batch_size=batch_size, seed=seed
    )


def _decoded(cfg: CfgNode, dicts: Sequence[dict[str, Any]], mapper: Callable[[dict], dict]) -> DecodedImages:
    return decoded(dicts, mapper, torch.device(cfg.MODEL.DEVICE), threads=cfg.DATALOADER.NUM_WORKERS)


def _in_memory(cfg: CfgNode) -> bool:
    where = cfg.INPUT.CLASSIFICATION.LOADER
    if where not in ("workers", "memory"):
        raise ValueError(f"INPUT.CLASSIFICATION.LOADER {where!r}: choose 'workers' or 'memory'")
    return bool(where == "memory")


def _sampler(cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> Sampler:
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


def build_test_loader(cfg: CfgNode, name: str) -> GuardedLoader:
    """Build the loader of a test set: every image once, shared among the processes.

    Batches are those of training; of one image where images may have different sizes. With
    ``INPUT.CLASSIFICATION.LOADER`` "memory" this process's images are decoded the first time, and lie on the device
    for the tests that follow.

    Raises:
        ValueError: no labelled images, an unknown loader, or a batch that cannot be shared among the processes; for
            "memory" see `decoded`.
    """
    batch_size, crop = images_per_process(cfg), cfg.INPUT.CLASSIFICATION.CROP
    if _in_memory(cfg):
        own = MiddleOfEach(_kept(cfg, name), crop)
        return GuardedLoader(own, batch_size=batch_size, collate_fn=list, generator=torch.Generator())
    dataset = MapDataset(DatasetFromList(_labelled(name), copy=False), Guarded(mapper_for_tests(cfg)))
    return GuardedLoader(
        dataset,
        batch_size=batch_size if crop else 1,
        sampler=InferenceSampler(len(dataset)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
        generator=torch.Generator(),  # the loader draws a seed; not from the run's stream
    )


_KEPT: dict[str, tuple[object, tuple[Any, ...], DecodedImages]] = {}
"""Name of a test set -> what loads it, how its images were prepared, and this process's images."""


def _kept(cfg: CfgNode, name: str) -> DecodedImages:
    mapper = mapper_for_tests(cfg)  # checks the config
    source = DatasetCatalog[name]
    setting = (
        cfg.MODEL.DEVICE,
        cfg.INPUT.FORMAT,
        cfg.INPUT.CLASSIFICATION.RESIZE,
        comm.get_rank(),
        comm.get_world_size(),
    )
    if name not in _KEPT or _KEPT[name][0] is not source or _KEPT[name][1] != setting:
        _KEPT.pop(name, None)  # leaves its memory to what follows
        whole = ClassificationMapper(cfg.INPUT.FORMAT, prepare=mapper.prepare)
        dicts = _labelled(name)
        own = [dicts[index] for index in InferenceSampler(len(dicts))]
        _KEPT[name] = source, setting, _decoded(cfg, own, whole)
    return _KEPT[name][2]


def _labelled(name: str) -> list[dict[str, Any]]:
    dicts: list[dict[str, Any]] = DatasetCatalog.get(name)
    if not dicts or "label" not in dicts[0]:
        raise ValueError(
            f"the dataset {name!r} has no images with a class of their own: a classifier needs one of "
            "DATASETS.IMAGES or DATASETS.TORCHVISION"
        )
    return dicts
