"""Measures finished weights, or finished detections, on the test sets of a config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from detectron2.evaluation.testing import flatten_results_dict
from torch import nn
from tqdm import tqdm

from ..checkpoint import StudentCheckpointer
from ..config import build_student
from ..data import check_datasets
from ..measured_weights import MeasuredCheckpointer
from ..tasks import task_of
from ..training_checks import check_weights
from .detection import DetectionEvaluator
from .detection_file import read_detections

__all__ = [
    "Measured",
    "Named",
    "check_test_sets",
    "last_weights",
    "load_measured",
    "measure",
    "measure_detections",
]


@dataclass(frozen=True)
class Named:
    """What is measured: a file, and what a table calls it."""

    name: str
    file: str


@dataclass(frozen=True)
class Measured:
    """One row of a table.

    Attributes:
        name: of what was measured.
        file: the weights or the detections.
        data: the test set.
        results: ``bbox/AP``, ``voc/AP50``, ``classification/top1``, ... in percent, as a training logs them.
    """

    name: str
    file: str
    data: str
    results: dict[str, float]


def last_weights(cfg: CfgNode) -> str:
    """Return ``model_final.pth`` of the run's folder, or else its last readable checkpoint.

    Raises:
        FileNotFoundError: it has none.
    """
    final = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    found = str(final) if final.is_file() else _last_checkpoint(cfg.OUTPUT_DIR)
    if not found:
        raise FileNotFoundError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR!r} has no checkpoint to measure: name the trained file with --weights"
        )
    return found


def _last_checkpoint(folder: str) -> str:
    return StudentCheckpointer(nn.Module(), folder, save_to_disk=False).get_checkpoint_file()


def check_test_sets(cfg: CfgNode) -> None:
    """See that there are test sets, that their files are there, and that their classes are the network's.

    Raises:
        ValueError: one is missing or does not fit; or what is built is no detector or classifier.
    """
    if cfg.MODEL.META_ARCHITECTURE == "ParaphraserPretrainer":
        raise ValueError(
            "the config trains paraphrasers, which find nothing: measure its teacher, or use train --eval-only"
        )
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST of the config is empty: name a data set to measure on with --data")
    task = task_of(cfg)
    alone = cfg.clone()
    alone.defrost()
    alone.DATASETS.TRAIN = ()
    check_datasets(alone, task.classes(cfg), classes_key=task.classes_key, other_test_classes=task.open_set)


def load_measured(cfg: CfgNode, weights: str) -> nn.Module:
    """Build the network of a config, of a distillation the student, and load all of its weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: none is named; it cannot be read, or does not give every tensor of the network.
    """
    if not weights:
        raise ValueError("no file of weights is named: the network would be measured with random ones")
    check_weights(_with(cfg, weights=weights))
    model = build_student(cfg)
    MeasuredCheckpointer(model).load(weights)
    return model


def measure(cfg: CfgNode, of: Named, folder: Path) -> list[Measured]:
    """Run a network over every test set of the config.

    Args:
        cfg: the config.
        of: the weights.
        folder: see `measure_model`.

    Raises:
        FileNotFoundError, ValueError: see `load_measured`.
    """
    return measure_model(cfg, load_measured(cfg, of.file), of.name, folder, file=of.file)


def measure_model(
    cfg: CfgNode, model: Callable[..., Any], name: str, folder: Path, *, file: str = ""
) -> list[Measured]:
    """Run a model, or what predicts like one, over every test set of the config.

    Args:
        cfg: the config.
        model: ``(batch) -> outputs``; a module is in eval mode meanwhile.
        name: of the rows.
        folder: for what evaluators write: ``<name>/<data>/inference/coco_instances_results.json`` of a detector.
        file: of the rows.
    """
    rows = []
    for data in cfg.DATASETS.TEST:
        own = _with(cfg, folder=str(folder / name / data))
        task = task_of(own)
        loader = tqdm(task.test_loader(own, data), desc=f"{name} on {data}", unit="batch", disable=None)
        results = inference_on_dataset(model, loader, task.evaluator(own, data))
        rows.append(Measured(name, file, data, dict(flatten_results_dict(results))))
    return rows


def measure_detections(cfg: CfgNode, of: Named) -> list[Measured]:
    """Measure finished detections on the one test set of the config.

    Args:
        cfg: the config.
        of: a file in COCO's result format.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read or does not fit the test set; or the config has several, or a classifier.
    """
    if not task_of(cfg).finds_boxes:
        raise ValueError("--detections: the config describes a classifier, which finds no boxes")
    data: Sequence[str] = cfg.DATASETS.TEST
    if len(data) != 1:
        raise ValueError(
            f"--detections: a file is about one data set, and there are {', '.join(data)}: choose one with --data"
        )
    evaluator = DetectionEvaluator(data[0], count_difficult=cfg.TEST.COUNT_DIFFICULT)
    results = evaluator.results(read_detections(of.file, data[0]))
    return [Measured(of.name, of.file, data[0], dict(flatten_results_dict(results)))]


def _with(cfg: CfgNode, *, weights: str | None = None, folder: str | None = None) -> CfgNode:
    """The config without its distillation, with other weights or another folder."""
    own = cfg.clone()
    own.defrost()
    own.DISTILL.ENABLED = False  # teachers are not built, and not compared with
    own.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS if weights is None else weights
    own.OUTPUT_DIR = cfg.OUTPUT_DIR if folder is None else folder
    own.freeze()
    return own
