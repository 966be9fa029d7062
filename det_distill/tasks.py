"""What models of one kind are fed with and how they are measured: one table for the trainer and the benchmarks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from .classification import data as classification
from .data.evaluation_loader import build_test_loader
from .data.loader import TrainingLoader, build_train_loader
from .data.noise import noise_with_boxes, noise_with_label
from .evaluation.classification import ClassificationEvaluator
from .evaluation.detection import DetectionEvaluator
from .evaluation.retrieval import RetrievalEvaluator

__all__ = ["TASKS", "Task", "task_of"]


@dataclass(frozen=True)
class Task:
    """One kind of model.

    Attributes:
        classes_key: the config key with the number of classes that the model is built for; "": not known.
        train_loader: (config, function that returns the seed) -> training loader.
        test_loader: (config, name of a test set) -> loader.
        evaluator: (config, name of a test set) -> evaluator.
        noise: (height, width, classes, generator) -> a training sample of noise.
        finds_boxes: whether it is a detector.
        open_set: whether it may be measured on classes that it was not trained on.
        classifies: whether it says one class of each image, on which student and teacher can agree.
    """

    classes_key: str
    train_loader: Callable[[CfgNode, Callable[[], int]], TrainingLoader]
    test_loader: Callable[[CfgNode, str], Iterable[Any]]
    evaluator: Callable[[CfgNode, str], DatasetEvaluator]
    noise: Callable[[int, int, int, torch.Generator], dict[str, Any]]
    finds_boxes: bool
    open_set: bool = False
    classifies: bool = False

    def classes(self, cfg: CfgNode) -> int | None:
        """Return the number of classes that the model of a config is built for, if there is a key for it."""
        node: Any = cfg
        for part in filter(None, self.classes_key.split(".")):
            node = node[part]
        return int(node) if self.classes_key else None


def _average_precision(cfg: CfgNode, name: str) -> DetectionEvaluator:
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    return DetectionEvaluator(name, output_dir=folder, count_difficult=cfg.TEST.COUNT_DIFFICULT)


def _detection(classes_key: str) -> Task:
    return Task(
        classes_key,
        build_train_loader,
        build_test_loader,
        _average_precision,
        noise_with_boxes,
        finds_boxes=True,
    )


def _classification(evaluator: Callable[[CfgNode, str], DatasetEvaluator], *, open_set: bool = False) -> Task:
    return Task(
        "MODEL.CLASSIFIER.NUM_CLASSES",
        classification.build_train_loader,
        classification.build_test_loader,
        evaluator,
        noise_with_label,
        finds_boxes=False,
        open_set=open_set,
        classifies=not open_set,
    )


def _accuracy(cfg: CfgNode, name: str) -> ClassificationEvaluator:
    """The evaluator of a classifier; of a distilled one it also tells how often it agrees with its teachers."""
    distilled = cfg.MODEL.META_ARCHITECTURE == "Distiller" and cfg.DISTILL.ENABLED
    teachers = tuple(cfg.DISTILL.TEACHERS) if distilled and cfg.DISTILL.EVAL_TEACHERS else ()
    folder = os.path.join(cfg.OUTPUT_DIR, "inference")
    return ClassificationEvaluator(name, output_dir=folder, teachers=teachers)


TASKS: dict[str, Task] = {
    "GeneralizedRCNN": _detection("MODEL.ROI_HEADS.NUM_CLASSES"),
    "RetinaNet": _detection("MODEL.RETINANET.NUM_CLASSES"),
    "ImageClassifier": _classification(_accuracy),
    "MetricLearner": _classification(lambda cfg, name: RetrievalEvaluator(), open_set=True),
}
"""Meta-architecture -> its task; one that is not listed is taken for a detector."""

_WRAPPERS = ("Distiller", "ParaphraserPretrainer")


def task_of(cfg: CfgNode) -> Task:
    """Return the task of a config's model; of a distilled one, or of paraphrasers, that of the student."""
    wrapped = cfg.MODEL.META_ARCHITECTURE in _WRAPPERS
    name = cfg.DISTILL.STUDENT_ARCHITECTURE if wrapped else cfg.MODEL.META_ARCHITECTURE
    return TASKS.get(name) or _detection("")
