"""detectron2's `DefaultTrainer` with exact resume, atomic checkpoints and distillation's own logging."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, default_setup
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger

from . import model_zoo
from .checkpoint import StudentCheckpointer
from .config import complete_config, get_cfg, merge_options
from .data import check_datasets, register_from_config
from .data.loader import ResumableLoader
from .evaluation.reconstruction import ReconstructionEvaluator
from .gradient_share import GradientShare
from .hooks import CalibrateHashes, EvaluateTeachers, ProgressBar, RunSeed, SeedEachStep
from .printer import DistillationPrinter
from .tasks import task_of

__all__ = ["Trainer", "load_config", "setup"]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains whatever ``MODEL.META_ARCHITECTURE`` names, distilled or not, from the same config and seeds.

    What it adds to `DefaultTrainer`: a run that is resumed ends in the weights of one that was not interrupted, data
    order and sampling included; checkpoints are written atomically; AP by VOC and COCO rules for any data set of
    boxes, accuracy for classifiers; the teachers are measured once; hash biases are estimated before the first step.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._seed = RunSeed(cfg.SEED)
        super().__init__(cfg)

    def build_hooks(self) -> list[HookBase | None]:
        """Return `DefaultTrainer`'s hooks and ours."""
        self.checkpointer: DetectionCheckpointer = StudentCheckpointer(
            self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self), seed=self._seed
        )
        name = os.path.basename(os.path.normpath(self.cfg.OUTPUT_DIR))
        ours: list[HookBase] = [
            SeedEachStep(self._seed),
            CalibrateHashes(self.cfg.DISTILL.CALIBRATION_BATCHES),
        ]
        if self.cfg.DISTILL.EVAL_TEACHERS and len(self.cfg.DATASETS.TEST):
            data = f"{self.cfg.DATASETS.TEST}\n{self.cfg.INPUT.dump()}{self.cfg.TEST.dump()}"
            digest = hashlib.sha256(data.encode()).hexdigest()[:12]
            ours.append(EvaluateTeachers(self._evaluate, self.cfg.OUTPUT_DIR, digest))
        if self.cfg.DISTILL.GRADIENT_SHARE_PERIOD > 0:
            ours.append(GradientShare(self.cfg.DISTILL.GRADIENT_SHARE_PERIOD))
        return [*ours, *super().build_hooks(), ProgressBar(self.cfg.PROGRESS_BAR, name)]

    def build_writers(self) -> list[EventWriter]:
        """Return detectron2's writers, and one that prints the distillation terms."""
        return [*super().build_writers(), DistillationPrinter()]

    def build_train_loader(self, cfg: CfgNode) -> ResumableLoader:  # type: ignore[override]
        """Return a loader whose stream depends on the run's seed alone."""
        return task_of(cfg).train_loader(cfg, self._seed)

    def resume_or_load(self, resume: bool = True) -> None:
        """Load ``MODEL.WEIGHTS``, or resume from the last readable checkpoint of ``OUTPUT_DIR``."""
        super().resume_or_load(resume)
        self.data_loader.start = self.start_iter

    def state_dict(self) -> dict[str, Any]:
        """Return `DefaultTrainer`'s state with the optimizer's, which detectron2 0.6 leaves out."""
        state = super().state_dict()
        state.setdefault("_trainer", self._trainer.state_dict())
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        super().load_state_dict(state_dict)
        if "_trainer" not in super().state_dict():
            self._trainer.load_state_dict(state_dict["_trainer"])

    def _evaluate(self, model: Callable[..., Any]) -> dict[str, Any]:
        return self.test(self.cfg, model)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[Any]:
        """Return the loader of a test set."""
        return task_of(cfg).test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Return the evaluator of the model's task (see `tasks`); for paraphrasers, their reconstruction error."""
        if cfg.MODEL.META_ARCHITECTURE == "ParaphraserPretrainer":
            return ReconstructionEvaluator()
        return task_of(cfg).evaluator(cfg, dataset_name)


def load_config(path: str, options: list[str] | None = None) -> CfgNode:
    """Return the config of a file (or zoo name) with command-line overrides; registers its data sets.

    Raises:
        FileNotFoundError, ValueError: with what is wrong in the file or the overrides.
    """
    cfg = get_cfg()
    try:
        cfg.merge_from_file(model_zoo.find_config(path))
        complete_config(cfg)
        merge_options(cfg, options or [])
    except (KeyError, AssertionError, yaml.YAMLError) as error:  # as yacs reports unknown keys and odd lists
        raise ValueError(f"{path}: {error.args[0] if error.args else error}") from error
    complete_config(cfg)
    register_from_config(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("MODEL.DEVICE is %r but there is no usable GPU: running on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    """Return the config of detectron2's usual command line, checked against its data, with logging set up."""
    args.config_file = model_zoo.find_config(args.config_file)  # detectron2 logs the file's text
    cfg = load_config(args.config_file, args.opts)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="det_distill", abbrev_name="dd")
    task = task_of(cfg)
    classifies = cfg.MODEL.META_ARCHITECTURE != "ParaphraserPretrainer"
    check_datasets(
        cfg,
        task.classes(cfg) if classifies else None,
        classes_key=task.classes_key,
        other_test_classes=task.open_set,
    )
    return cfg
