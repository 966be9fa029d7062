"""What a benchmark needs where there is no data and no trained teacher: noise, and random weights."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from .. import model_zoo
from ..config import build_student
from ..engine import load_config
from ..lazy_configs import build_lazy_model
from ..tasks import task_of

__all__ = ["data_batches", "synthetic_batches", "with_random_weights"]

Batch = list[dict[str, Any]]


def synthetic_batches(cfg: CfgNode, height: int, width: int, images: int, count: int = 2) -> list[Batch]:
    """Return training batches of noise: with boxes for a detector, with labels for a classifier.

    Args:
        cfg: gives the class count, and with ``INPUT.FORMAT`` "L" that images have one channel.
        height: of every image in pixels.
        width: likewise.
        images: per batch.
        count: number of batches.

    Raises:
        ValueError: a size or count below 1.
    """
    if min(height, width, images, count) < 1:
        raise ValueError(
            f"images of {height} x {width}, {images} in a batch: all of these must be at least 1"
        )
    task = task_of(cfg)
    classes = task.classes(cfg) or cfg.MODEL.ROI_HEADS.NUM_CLASSES
    noise = torch.Generator().manual_seed(0)
    batches = [[task.noise(height, width, classes, noise) for _ in range(images)] for _ in range(count)]
    if cfg.INPUT.FORMAT == "L":
        for sample in itertools.chain(*batches):
            sample["image"] = sample["image"][:1]
    return batches


def data_batches(cfg: CfgNode, count: int = 4) -> list[Batch]:
    """Return the first batches of the config's own training data, as the trainer would read them.

    Raises:
        ValueError: the config names no training data.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name training data, or give a size for synthetic images")
    return list(itertools.islice(task_of(cfg).train_loader(cfg, lambda: max(cfg.SEED, 0)), count))


def with_random_weights(cfg: CfgNode, folder: Path) -> CfgNode:
    """Return a copy of the config whose teachers and paraphrasers are files of random weights.

    They are loaded as strictly as trained ones. The time of a step does not depend on what weights are worth.

    Args:
        cfg: a distillation.
        folder: where they are written; must exist for as long as models are built from the config.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    for name, node in cfg.DISTILL.TEACHERS.items():
        node.WEIGHTS = str(folder / f"{name}.pth")
        torch.save({"model": _teacher(name, node, cfg.MODEL.DEVICE).state_dict()}, node.WEIGHTS)
    for name, node in cfg.DISTILL.PAIRS.items():
        if node.METHOD == "FactorTransfer" and node.PARAPHRASER_KIND != "none":
            node.PARAPHRASER = str(folder / f"paraphraser_{name}.pth")
            torch.save({"model": _paraphrasers(cfg, name).state_dict()}, node.PARAPHRASER)
    return cfg


def _teacher(name: str, node: CfgNode, device: str) -> nn.Module:
    path = model_zoo.find_config(node.CONFIG)
    if path.endswith(".py"):
        return build_lazy_model(path, node.OPTS, f"teacher {name!r}")
    return build_student(load_config(path, [*node.OPTS, "MODEL.DEVICE", device]))


def _paraphrasers(cfg: CfgNode, pair: str) -> nn.Module:
    """The untrained paraphrasers of one pair."""
    alone = cfg.clone()
    alone.MODEL.META_ARCHITECTURE = "ParaphraserPretrainer"
    alone.DISTILL.PARAPHRASER.TEACHER = cfg.DISTILL.PAIRS[pair].TEACHER_NAME
    for name in list(alone.DISTILL.PAIRS):
        if name != pair:
            del alone.DISTILL.PAIRS[name]
    return build_model(alone)
