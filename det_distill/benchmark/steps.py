"""The parts of a distilled training step, each as something to call and to time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from ..checkpoint import StudentCheckpointer
from ..compilation import compile_backbones
from ..config import build_student
from ..distiller import Distiller
from ..hooks import calibrate_hashes
from ..padding import image_sizes
from ..solver import build_optimizer
from ..targets import Step
from ..timing import elapsed
from ..train_step import TrainStep, autocast

__all__ = ["PARTS", "Steps", "Training", "build_distiller", "build_plain"]

PARTS = ("plain", "teacher", "pairs", "distilled")
"""What is timed, as the methods of `Steps`."""

_SEED = 0
Batch = list[dict[str, Any]]


def build_plain(cfg: CfgNode) -> nn.Module:
    """Return the plain student, with ``MODEL.WEIGHTS`` if the config names any, else with weights of one seed.

    How many boxes there are to deal with depends on the weights: `build_distiller` takes the same ones.
    """
    torch.manual_seed(_SEED)
    return _with_weights(build_student(cfg), cfg)


def build_distiller(cfg: CfgNode, batches: Sequence[Batch]) -> Distiller:
    """Return the distilled student, every pair counting from the first iteration on.

    Args:
        cfg: a distillation with all its files.
        batches: for hash biases.

    Raises:
        ValueError: the config distils nothing.
    """
    cfg = cfg.clone()
    cfg.defrost()
    for node in cfg.DISTILL.PAIRS.values():
        node.START, node.STOP, node.WARMUP = 0, -1, 0
    torch.manual_seed(_SEED)
    model = build_model(cfg)
    if not isinstance(model, Distiller) or not model.distill:
        raise ValueError(
            "nothing to compare: the config needs MODEL.META_ARCHITECTURE 'Distiller', DISTILL.ENABLED True "
            "and a pair"
        )
    _with_weights(model, cfg)
    calibrate_hashes(model, batches)
    return model


def _with_weights(model: nn.Module, cfg: CfgNode) -> nn.Module:
    if cfg.MODEL.WEIGHTS:
        StudentCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


class Training:
    """The trainer's own step, in the precision and the parts that ``SOLVER`` asks for, at learning rate 0.

    The optimizer does all of its work and the weights stay, so that every step has the same proposals.
    """

    def __init__(self, model: nn.Module, cfg: CfgNode) -> None:
        if cfg.MODEL.COMPILE:
            compile_backbones(model, cfg.MODEL.COMPILE)
        optimizer = build_optimizer(cfg, model)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        self.batch: Batch = []
        self._trainer = TrainStep.from_config(cfg, model, self._batches(), optimizer)
        self._storage = EventStorage()

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield self.batch

    def step(self) -> None:
        """Train on `batch` once."""
        with self._storage:
            self._trainer.run_step()


class Steps:
    """A distilled step, and what it is made of.

    Args:
        cfg: a distillation with all its files.
        batches: taken in turn.

    Raises:
        ValueError: the config distils nothing, or there is no batch.
    """

    def __init__(self, cfg: CfgNode, batches: Sequence[Batch]) -> None:
        if not batches:
            raise ValueError("a benchmark needs at least one batch")
        self._cfg, self._batches = cfg, batches
        self.distiller = build_distiller(cfg, batches)
        self._plain, self._distilled = Training(build_plain(cfg), cfg), Training(self.distiller, cfg)
        self._observed = [self._observe(batch) for batch in batches]
        self._now = 0

    @torch.no_grad()
    def _observe(self, batch: Batch) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        with EventStorage(), autocast(self._cfg):
            _, student, teachers = self.distiller.train().observe(batch)
        return student, teachers

    def teacher_inputs(self) -> dict[str, Any]:
        """Return address -> value of what the teachers need of the student on the first batch."""
        student, features = self._observed[0]
        teachers = self.distiller.teachers
        return {a: student[a] for name in features for a in teachers[name].student_addresses(features[name])}

    def teacher_bytes(self) -> int:
        """Return the size of all teachers' parameters and buffers."""
        models = [teacher.model for teacher in self.distiller.teachers.values()]
        return _size([t for model in models for t in (*model.parameters(), *model.buffers())])

    def tapped_bytes(self) -> int:
        """Return the size of the teachers' tapped features of the first batch."""
        _, features = self._observed[0]
        return _size([v for values in features.values() for v in values.values() if isinstance(v, Tensor)])

    def use(self, repeat: int) -> None:
        """Take the batch of this repeat."""
        self._now = repeat % len(self._batches)
        self._plain.batch = self._distilled.batch = self._batches[self._now]

    def plain(self) -> None:
        """The student's own step: forward, backward, optimizer."""
        self._plain.step()

    def teacher(self) -> None:
        """The forward pass of every teacher as far as it is tapped, on the student's images and proposals."""
        student, _ = self._observed[self._now]
        with autocast(self._cfg):
            for teacher in self.distiller.teachers.values():
                teacher(self._batches[self._now], student)

    def pairs(self) -> None:
        """Adapters and losses, paraphraser too: forward, and backward as far as the student's features.

        Without losses of input gradients, which need the models' own graphs: they count in the distilled step alone.
        """
        student, teachers = self._observed[self._now]
        leaves = {address: _leaf(value) for address, value in student.items()}
        with autocast(self._cfg):
            batch = self._batches[self._now]
            terms = self._terms(leaves, teachers, Step(image_sizes(batch), batch=batch))
        if terms:
            torch.stack(terms).sum().backward()
        for parameter in self.distiller.distill.parameters():
            parameter.grad = None

    def _terms(self, student: Mapping[str, Any], teachers: Mapping[str, Any], step: Step) -> list[Tensor]:
        lone = next(iter(teachers))
        values = [
            pair(student, [teachers[t] for t in pair.teacher_names or (lone,)], step)
            for pair in self.distiller.distill.by_name().values()
            if not pair.differentiates_input
        ]
        return [term for by_name in values for term in by_name.values()]

    def distilled(self) -> None:
        """The distilled step: forward, backward, optimizer."""
        self._distilled.step()

    def measure(self, repeats: int, warm_up: int = 2) -> dict[str, list[float]]:
        """Time every part in turn, back and forth, `repeats` times after `warm_up` ones that do not count.

        Returns:
            Part -> seconds of each repeat.
        """
        times: dict[str, list[float]] = {name: [] for name in PARTS}
        for repeat in range(-warm_up, repeats):
            self.use(repeat)
            for name in PARTS if repeat % 2 else reversed(PARTS):
                torch.manual_seed(repeat % 2**31)
                duration = elapsed(getattr(self, name), self.distiller.device)
                if repeat >= 0:
                    times[name].append(duration)
        return times


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _leaf(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().requires_grad_() if floating else value
