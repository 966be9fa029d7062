"""Trainer hooks: randomness by iteration, hash calibration, the teachers' AP, a progress bar."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from tqdm import tqdm

from .data.loader import seed_everything
from .distiller import Distiller
from .evaluation.teachers import measure_teachers
from .losses import LSH
from .modes import batch_norms, restored_modes
from .padding import image_sizes, valid_cells
from .randomness import kept_random_state
from .tasks import task_of
from .wrapping import plain_model

__all__ = [
    "CalibrateHashes",
    "EvaluateTeachers",
    "ProgressBar",
    "RunSeed",
    "SeedEachStep",
    "calibrate_hashes",
    "data_digest",
    "measure_before_testing",
]

logger = logging.getLogger(__name__)


class RunSeed:
    """The seed of a run, part of its checkpoint: a resumed run goes on with it, whatever it was told.

    Args:
        seed: negative: drawn at random, the same on every rank.
    """

    def __init__(self, seed: int) -> None:
        self.value = seed if seed >= 0 else comm.shared_random_seed()

    def __call__(self) -> int:
        """Return the seed."""
        return self.value

    def state_dict(self) -> dict[str, int]:
        """Return the seed."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over a checkpoint's seed."""
        self.value = int(state["value"])


class SeedEachStep(HookBase):
    """Seeds every generator before each step from (run's seed, rank, iteration).

    Whatever a step draws, proposals to sample or noise, is then the same in a resumed run, without random states in
    the checkpoint.
    """

    def __init__(self, seed: RunSeed) -> None:
        self._seed = seed

    def before_step(self) -> None:  # noqa: D102
        seed_everything(self._seed(), comm.get_rank(), self.trainer.iter)


class CalibrateHashes(HookBase):
    """Before training, estimates the biases of `LSH` losses that ask for it, over a number of training batches.

    First, all processes get rank 0's buffers of the pairs, random hash weights among them: detectron2's trainers wrap
    the model so that buffers are not shared.

    The student only serves to sample proposals: its weights and statistics stay as they are. A resumed run finds
    the biases in its checkpoint.
    """

    def __init__(self, batches: int) -> None:
        self._batches = batches

    def before_train(self) -> None:  # noqa: D102
        model = plain_model(self.trainer.model)
        if not isinstance(model, Distiller):
            return
        if comm.get_world_size() > 1:
            for buffer in model.distill.buffers():
                torch.distributed.broadcast(buffer, 0)
        if not _waiting_hashes(model):
            return
        calibrate_hashes(model, itertools.islice(self.trainer.data_loader, self._batches))


def _waiting_hashes(model: Distiller) -> list[tuple[str, LSH]]:
    return [
        (name, loss)
        for name, pair in model.distill.by_name().items()
        for loss in pair.losses.values()
        if isinstance(loss, LSH) and loss.needs_calibration
    ]


@torch.no_grad()
def calibrate_hashes(model: Distiller, batches: Iterable[Any]) -> None:
    """Estimate the bias of every `LSH` loss of `model` that needs it from the teachers' features on `batches`.

    The student runs in training mode, because that is when it samples proposals, but its batch-normalisation
    statistics and the random stream are left as they were.

    Args:
        model: a distiller.
        batches: training batches; each is run once.
    """
    waiting = _waiting_hashes(model)
    with restored_modes(model), kept_random_state(), EventStorage():
        model.train()
        for norm in batch_norms(model):
            norm.eval()
        for batch in tqdm(batches, desc="estimating hash biases", disable=None, leave=False):
            _, _, seen = model.observe(batch)
            for name, loss in waiting:
                feature, stride = model.teacher_feature(name, seen)
                loss.observe(feature, valid_cells(feature, stride, image_sizes(batch)))
    for name, loss in waiting:
        loss.calibrate()
        logger.info("hash bias of %s: mean %.4g over %d hashes", name, loss.bias.mean(), loss.bias.numel())


class EvaluateTeachers(HookBase):
    """Measures each teacher once, before the first step, and logs it beside the student's numbers.

    Results go to ``teachers.json`` in the output folder and, as ``<teacher>/bbox/AP`` and so on, to the trainer's
    writers; a classifier's predictions to ``inference/``, for the agreement of teacher and student. A badly loaded
    teacher shows here, not after a day. Skipped where the teacher's class count is not the student's, and where the
    files have what the same weights gave on the same data (`measure_teachers`).

    Args:
        evaluate: ``(callable model) -> results``.
        folder: the run's output folder.
        data: stands for what is measured on (`data_digest`).
    """

    def __init__(
        self, evaluate: Callable[[Callable[..., Any]], dict[str, Any]], folder: str, data: str = ""
    ) -> None:
        self._evaluate, self._folder, self._data = evaluate, folder, data

    def before_train(self) -> None:  # noqa: D102
        cfg = self.trainer.cfg  # type: ignore[attr-defined]
        found = measure_teachers(
            plain_model(self.trainer.model),
            self._evaluate,
            self._folder,
            data=self._data,
            compared_on=cfg.DATASETS.TEST if task_of(cfg).classifies else (),
        )
        for name, results in found.items():
            for key, value in flatten_results_dict(results).items():
                self.trainer.storage.put_scalar(f"{name}/{key}", value, smoothing_hint=False)


def data_digest(cfg: CfgNode) -> str:
    """Return 12 hexadecimal digits that stand for what a config measures on.

    That is the test sets, with their definitions where the config has them, and how images are made.
    """
    defined = [
        (kind, name, cfg.DATASETS[kind][name])
        for kind in ("VOC", "COCO", "IMAGES", "TORCHVISION")
        for name in cfg.DATASETS.TEST
        if name in cfg.DATASETS.get(kind, {})
    ]
    text = f"{cfg.DATASETS.TEST}\n{defined}\n{cfg.INPUT.dump()}{cfg.TEST.dump()}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def measure_before_testing(
    cfg: CfgNode, model: nn.Module, test: Callable[[CfgNode, Callable[..., Any]], dict[str, Any]]
) -> None:
    """Before a distilled classifier is measured without a training: see to what its teachers predict.

    Runs the teachers only if the output folder has not the predictions of these weights on these data. Does nothing
    for other models and with ``DISTILL.EVAL_TEACHERS False``.

    Args:
        cfg: the config.
        model: the model that is measured afterwards.
        test: ``(config, callable model) -> results``, as `Trainer.test`.
    """
    if cfg.DISTILL.EVAL_TEACHERS and task_of(cfg).classifies and len(cfg.DATASETS.TEST):
        measure_teachers(
            plain_model(model),
            functools.partial(test, cfg),
            cfg.OUTPUT_DIR,
            data=data_digest(cfg),
            compared_on=cfg.DATASETS.TEST,
        )


class ProgressBar(HookBase):
    """A bar on standard error: iterations, remaining time, and the current value of each loss.

    Args:
        show: ``"on"``, ``"off"``, or ``"auto"``: if standard error is a terminal.
        name: shown in front.
    """

    def __init__(self, show: str, name: str) -> None:
        terminal = sys.stderr.isatty()
        self._on = comm.is_main_process() and (show == "on" or (show == "auto" and terminal))
        self._every = 10 if terminal else 50
        self._name, self._interval = name, 0.2 if terminal else 10.0
        self._bar: tqdm | None = None

    def before_train(self) -> None:  # noqa: D102
        if self._on:
            self._bar = tqdm(
                total=self.trainer.max_iter,
                initial=self.trainer.start_iter,
                desc=self._name,
                unit="it",
                mininterval=self._interval,
                dynamic_ncols=True,
            )

    def after_step(self) -> None:  # noqa: D102
        if self._bar is None:
            return
        if self.trainer.iter % self._every == 0:
            history = self.trainer.storage.histories()
            losses = {
                n: f"{h.latest():.3g}"
                for n, h in history.items()
                if "/" not in n and ("loss" in n or "distill" in n)
            }
            self._bar.set_postfix(losses, refresh=False)
        self._bar.update()

    def after_train(self) -> None:  # noqa: D102
        if self._bar is not None:
            self._bar.close()
