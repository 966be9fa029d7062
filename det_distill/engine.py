"""detectron2's `DefaultTrainer` with exact resume, atomic checkpoints and distillation's own logging."""

from __future__ import annotations

import argparse
import logging
import os
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase, default_setup, hooks
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from torch import nn

from . import model_zoo
from .best import BestCheckpoint
from .checkpoint import StudentCheckpointer
from .classification.mixing import check_mixing
from .classification.size_check import check_image_size
from .compilation import compile_backbones
from .config import complete_config, get_cfg, merge_file, merge_options
from .data import check_datasets, register_from_config
from .data.loader import TrainingLoader
from .devices import kind_of_device
from .ema import WeightAverage
from .evaluation.reconstruction import ReconstructionEvaluator
from .gradient_share import GradientShare
from .hooks import CalibrateHashes, EvaluateTeachers, ProgressBar, RunSeed, SeedEachStep, data_digest
from .launch import parallel
from .names import check_names
from .printer import DistillationPrinter
from .solver import build_lr_scheduler, build_optimizer
from .tasks import task_of
from .train_step import TrainStep
from .training_checks import check_frozen, check_synchronised_norms, check_weights
from .wrapping import plain_model

__all__ = ["Trainer", "load_config", "setup"]

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Trains whatever ``MODEL.META_ARCHITECTURE`` names, distilled or not, from the same config and seeds.

    What it adds to `DefaultTrainer`: a run that is resumed ends in the weights of one that was not interrupted, data
    order and sampling included; checkpoints are written atomically; AP by VOC and COCO rules for any data set of
    boxes, accuracy for classifiers; the teachers are measured once; hash biases are estimated before the first step.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super(DefaultTrainer, self).__init__()  # what follows is in place of DefaultTrainer's own
        self._seed = RunSeed(cfg.SEED)
        self._average_results: dict[str, Any] = {}
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        self.cfg = cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        check_mixing(cfg, model)
        check_image_size(cfg, model)
        check_synchronised_norms(cfg, model)
        if cfg.MODEL.COMPILE:
            compile_backbones(model, cfg.MODEL.COMPILE)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self._trainer = TrainStep.from_config(cfg, parallel(model), loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.checkpointer: DetectionCheckpointer = StudentCheckpointer(
            self.model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), seed=self._seed
        )
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase | None]:
        """Return `DefaultTrainer`'s hooks and ours."""
        cfg, theirs = self.cfg, super().build_hooks()
        ours: list[HookBase] = [SeedEachStep(self._seed), CalibrateHashes(cfg.DISTILL.CALIBRATION_BATCHES)]
        if cfg.DISTILL.EVAL_TEACHERS and len(cfg.DATASETS.TEST):
            ours.append(EvaluateTeachers(self._evaluate, cfg.OUTPUT_DIR, data_digest(cfg)))
        if cfg.DISTILL.GRADIENT_SHARE_PERIOD > 0:
            ours.append(GradientShare(cfg.DISTILL.GRADIENT_SHARE_PERIOD))
        average = self._weight_average() if cfg.SOLVER.EMA.DECAY != 0 else None
        own = next(i for i, hook in enumerate(theirs) if isinstance(hook, hooks.EvalHook))
        if cfg.TEST.BEST:
            theirs.insert(own + 1, self._best_checkpoint(average))
        if average is not None:
            ours.append(average)
            # before the student's own evaluation: the files that an evaluator writes are then the student's
            theirs.insert(own, hooks.EvalHook(cfg.TEST.EVAL_PERIOD, lambda: self._evaluate_average(average)))
        name = os.path.basename(os.path.normpath(cfg.OUTPUT_DIR))
        return [*ours, *theirs, ProgressBar(cfg.PROGRESS_BAR, name)]

    def _weight_average(self) -> WeightAverage:
        solver = self.cfg.SOLVER
        return WeightAverage(
            solver.EMA.DECAY, self.cfg.OUTPUT_DIR, solver.CHECKPOINT_PERIOD, warmup=solver.EMA.WARMUP
        )

    def _evaluate_average(self, average: WeightAverage) -> dict[str, Any]:
        logger.info("measuring the averaged weights; the student's own follow")
        with average.applied():
            self._average_results = {"ema": self._evaluate(self.model)}
        return self._average_results

    def _best_checkpoint(self, average: WeightAverage | None) -> BestCheckpoint:
        measure = self.cfg.TEST.BEST
        if not self.cfg.DATASETS.TEST or (measure.startswith("ema/") and average is None):
            missing = "SOLVER.EMA.DECAY is 0" if self.cfg.DATASETS.TEST else "DATASETS.TEST is empty"
            raise ValueError(f"TEST.BEST {measure!r} is not measured: {missing}")
        averaged = nullcontext if average is None else average.applied
        return BestCheckpoint(
            measure, self.cfg.OUTPUT_DIR, self.cfg.TEST.EVAL_PERIOD, self._measured, averaged
        )

    def _measured(self) -> dict[str, Any]:
        """What the last evaluation gave, of the student and of its average."""
        own: dict[str, Any] = getattr(self, "_last_eval_results", None) or {}
        return dict(flatten_results_dict({**own, **self._average_results}))

    def build_writers(self) -> list[EventWriter]:
        """Return detectron2's writers, and one that prints the distillation terms."""
        return [*super().build_writers(), DistillationPrinter()]

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of ``SOLVER.OPTIMIZER``."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Return the schedule of ``SOLVER.LR_SCHEDULER_NAME``."""
        return build_lr_scheduler(cfg, optimizer)

    def build_train_loader(self, cfg: CfgNode) -> TrainingLoader:  # type: ignore[override]
        """Return a loader whose stream depends on the run's seed alone."""
        return task_of(cfg).train_loader(cfg, self._seed)

    def resume_or_load(self, resume: bool = True) -> None:
        """Load ``MODEL.WEIGHTS``, or resume from the last readable checkpoint of ``OUTPUT_DIR``.

        Raises:
            FileNotFoundError: no such weights.
            ValueError: no weights, but a part of a classifier's backbone is frozen, see `check_frozen`; or weights that
                do not fit.
        """
        if not (resume and self.checkpointer.has_checkpoint()):
            check_weights(self.cfg)
            if not self.cfg.MODEL.WEIGHTS:
                check_frozen(self.cfg, plain_model(self.model))
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


def load_config(path: str, options: list[str] | None = None, *, where: str = "the command line") -> CfgNode:
    """Return the config of a file (or zoo name) with command-line overrides; registers its data sets.

    Args:
        path: the file or name.
        options: ``[KEY, value, ...]``.
        where: what messages call the options' place.

    Raises:
        FileNotFoundError: no such file or zoo name.
        ValueError: what is wrong in the file or the overrides, such as an unknown key or class, and what there is.
    """
    cfg = get_cfg()
    merge_file(cfg, model_zoo.find_config(path))
    merge_options(cfg, options or [], where)
    complete_config(cfg)
    check_names(cfg)
    register_from_config(cfg)
    if kind_of_device(cfg.MODEL.DEVICE, "MODEL.DEVICE") == "cuda" and not torch.cuda.is_available():
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
