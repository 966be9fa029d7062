"""A moving average of the student's weights: kept beside the training, measured and saved, never trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import Tensor

from .checkpoint import replace_file
from .handover import NETWORK, describe
from .wrapping import plain_model, student_of

__all__ = ["FILE", "WeightAverage"]

FILE = "model_ema.pth"
"""The averaged student in the output folder."""

logger = logging.getLogger(__name__)


class WeightAverage(HookBase):
    """After each step of the optimizer: average = d * average + (1 - d) * weights, in float32.

    d is `decay`, or, with `warmup`, the smaller one of it and (1 + n) / (10 + n) in the step that n others precede: the
    average forgets the random weights of the beginning. It begins with the weights that the training begins with.

    Averaged are the student's parameters and its floating-point buffers, so batch normalisation's running mean and
    variance too: they fit the averaged weights better than those of the last step. Other buffers, which count
    something, are copied. Adapters (``distill.``) and teachers have no average.

    ``model_ema.pth``, in the output folder with every checkpoint and at the end, is a plain student's checkpoint. It
    is replaced as a whole. The average is part of the trainer's state, so a resumed run goes on with it; one that is
    resumed from a checkpoint without it begins with the weights there. Every process keeps the average and may be
    evaluated; the first one writes the file.

    Args:
        decay: above 0, below 1.
        folder: where the file goes.
        period: of the checkpoints, in iterations.
        warmup: see above.

    Raises:
        ValueError: another decay; when training begins: the checkpoint's average is that of another student.
    """

    def __init__(self, decay: float, folder: str, period: int, *, warmup: bool = True) -> None:
        if not 0 < decay < 1:
            raise ValueError(
                f"SOLVER.EMA.DECAY {decay}: the share of the average that a step keeps, above 0 and below 1 "
                "(0: no average)"
            )
        self._decay, self._warmup = decay, warmup
        self._file, self._period = Path(folder) / FILE, period
        self._average: dict[str, Tensor] = {}
        self._steps = 0

    def before_train(self) -> None:  # noqa: D102
        state = self._student()
        if not self._average:
            self._average = {k: _wide(v).clone() for k, v in state.items()}
        if {k: v.shape for k, v in self._average.items()} != {k: v.shape for k, v in state.items()}:
            raise ValueError(
                "the checkpoint's moving average (SOLVER.EMA) is that of another student: start in a new OUTPUT_DIR, "
                "or without --resume"
            )
        self._average = {k: v.to(state[k].device) for k, v in self._average.items()}

    @torch.no_grad()
    def after_step(self) -> None:  # noqa: D102
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps)) if self._warmup else self._decay
        self._steps += 1
        averages, values = [], []
        for name, value in self._student().items():
            if value.is_floating_point():
                averages.append(self._average[name])
                values.append(_wide(value))
            else:
                self._average[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)
        now = self.trainer.iter + 1
        if now % self._period == 0 or now == self.trainer.max_iter:
            self._save()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """In the block the student has the averaged weights; after it, its own, bit by bit."""
        own = {k: v.clone() for k, v in self._student().items()}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(own)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of steps that it holds."""
        return {"steps": self._steps, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._steps, self._average = int(state_dict["steps"]), dict(state_dict["average"])

    def _student(self) -> dict[str, Tensor]:
        return dict(student_of(self.trainer.model).state_dict())

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self._student().items():
            tensor.copy_(values[name])

    def _save(self) -> None:
        if not comm.is_main_process():
            return
        content = {"model": self._average, NETWORK: describe(plain_model(self.trainer.model))}
        replace_file(str(self._file), lambda temporary: torch.save(content, temporary))


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
