"""The best student of a training by one of its measures, kept in a file of its own."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase

from .files import FileError, load_checkpoint, replace_file
from .handover import NETWORK, describe
from .names import did_you_mean
from .wrapping import plain_model, student_of

__all__ = ["FILE", "BestCheckpoint"]

FILE = "model_best.pth"
"""The best student in the output folder."""

_NOTE = "best"
_SHOWN = 40

logger = logging.getLogger(__name__)


class BestCheckpoint(HookBase):
    """After an evaluation that is the best so far, writes the student that was measured to ``model_best.pth``.

    Higher is better, but for names that end in ``nll``, ``ece`` or ``reconstruct`` and for reconstruction errors. What
    is equal, or no finite number, is not better. The file is a plain student's checkpoint; beside the tensors it says,
    under ``best``, the measure, its value and the iteration.

    The best value is part of the trainer's state. A checkpoint is written before the evaluation in the same iteration,
    so a resumed run looks into the file too, unless that is of a later iteration than its own.

    A measure that no evaluation gives is told once, with those that there are; the training goes on.

    Args:
        measure: for example ``classification/top1``; ``ema/classification/top1`` is of the averaged student.
        folder: where the file goes.
        period: of the evaluations, in iterations; the hook comes after detectron2's EvalHook.
        results: returns what the last evaluation gave, by name; nothing in processes that do not evaluate.
        averaged: in this context the student has the averaged weights.
    """

    def __init__(
        self,
        measure: str,
        folder: str,
        period: int,
        results: Callable[[], Mapping[str, Any]],
        averaged: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._measure, self._file, self._period = measure, Path(folder) / FILE, period
        self._results = results
        self._averaged = averaged if measure.startswith("ema/") else nullcontext
        self._sign = -1 if _lower_is_better(measure) else 1
        self._best: dict[str, Any] = {}
        self._warned = False

    def before_train(self) -> None:  # noqa: D102
        start = self.trainer.start_iter
        if start and self._file.is_file():
            noted = self._noted()
            if noted.get("measure") == self._measure and noted["iteration"] <= start:
                self._best = noted

    def after_step(self) -> None:  # noqa: D102
        done = self.trainer.iter + 1
        if self._period > 0 and done % self._period == 0 and done != self.trainer.max_iter:
            self._compare(done)

    def after_train(self) -> None:  # noqa: D102
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._compare(self.trainer.max_iter)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, and of what; empty before the first evaluation."""
        return dict(self._best)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned, if it is of the same measure."""
        self._best = dict(state_dict) if state_dict["measure"] == self._measure else {}

    def _noted(self) -> dict[str, Any]:
        """What the file says of itself; nothing if it is damaged, then the checkpoint's own note counts."""
        try:
            content = load_checkpoint(self._file)
        except FileError as error:
            logger.warning(
                "%s. The next student that is better than the checkpoint's best replaces it", error
            )
            return {}
        return dict(content.get(_NOTE, {})) if isinstance(content, Mapping) else {}

    def _compare(self, iteration: int) -> None:
        results = self._results()
        if not results:
            return
        if self._measure not in results:
            self._warn(list(results))
            return
        value = float(results[self._measure])
        if not math.isfinite(value) or (self._best and self._sign * (value - self._best["value"]) <= 0):
            return
        self._best = {"measure": self._measure, "value": value, "iteration": iteration}
        model = plain_model(self.trainer.model)
        with self._averaged():
            content = {"model": student_of(model).state_dict(), NETWORK: describe(model), _NOTE: self._best}
            replace_file(str(self._file), lambda temporary: torch.save(content, temporary))
        logger.info("the best %s so far: %.5g, in %s", self._measure, value, self._file)

    def _warn(self, names: list[str]) -> None:
        if not self._warned:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            logger.warning(
                f"TEST.BEST {self._measure!r} is not among what was measured{did_you_mean(self._measure, names)}, so "
                f"{FILE} is not written; there are {', '.join(names[:_SHOWN])}{more}"
            )
        self._warned = True


def _lower_is_better(measure: str) -> bool:
    return measure.endswith(("nll", "ece", "reconstruct")) or "reconstruction" in measure.split("/")
