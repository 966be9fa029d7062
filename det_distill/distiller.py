"""The student with its taps open: a model like any other whose loss dict has a few more entries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .padding import image_sizes
from .pairs import Pair, Pairs
from .taps import AddressError, FeatureSpec, FeatureTap, feature_spec
from .teachers import Teacher, Teachers

__all__ = ["DISTILL_PREFIX", "Distiller"]

DISTILL_PREFIX = "distill."
_FINGERPRINT = "teacher_fingerprint"

logger = logging.getLogger(__name__)
_STUDENT_PREFIX = "student."


class Distiller(nn.Module):
    """Wraps a model that obeys ``model(batch) -> dict of losses`` in training and adds the pairs' losses.

    Its state is the plain student's, plus keys that begin with ``distill.``: any tool that loads a student's
    checkpoint loads this one's, and a plain student's file loads into it, strictly too. Adapters and constants that a
    file holds for another teacher are left out, with a warning.

    In eval mode it *is* the student. Without pairs its losses are bitwise the student's.

    Args:
        student: the model to train; the only one that remains.
        pairs: what is imitated.
        teachers: by name; plain modules are wrapped by `as_teacher`. Hidden: no parameters, no state, but they
            follow ``.to()``.
        clock: returns the iteration for the pairs' schedules; default: counts training forwards.

    Raises:
        AddressError: an address that a model lacks.
        ValueError: a pair that names no teacher, a teacher that no pair uses, channels or strides that do not fit.
    """

    student: nn.Module
    distill: Pairs

    def __init__(
        self,
        student: nn.Module,
        pairs: Pairs | None = None,
        teachers: Mapping[str, Teacher | nn.Module] | None = None,
        *,
        clock: Callable[[], int] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.distill = Pairs() if pairs is None else pairs
        self._teachers = teachers if isinstance(teachers, Teachers) else Teachers(**(teachers or {}))
        self._clock = clock
        self._forwards = 0
        self._pair_teacher = {
            name: self._teacher_name(name, pair) for name, pair in self.distill.by_name().items()
        }
        unused = set(self._teachers) - set(self._pair_teacher.values())
        if unused:
            raise ValueError(
                f"no pair uses the teacher(s) {', '.join(sorted(unused))}: add a pair or drop them"
            )
        self._bind()
        for name, pair in self.distill.by_name().items():
            made_for = self._teachers[self._pair_teacher[name]].fingerprint
            pair.register_buffer(_FINGERPRINT, torch.tensor(list(made_for.encode()), dtype=torch.uint8))
        self.register_state_dict_post_hook(_to_plain_names)
        self.register_load_state_dict_pre_hook(_from_plain_names)
        self.register_load_state_dict_post_hook(_report_plain_names)

    def _teacher_name(self, name: str, pair: Pair) -> str:
        if pair.teacher_name is None and len(self._teachers) == 1:
            return next(iter(self._teachers))
        if pair.teacher_name is None or pair.teacher_name not in self._teachers:
            raise ValueError(
                f"pair {name!r} asks for teacher {pair.teacher_name!r}; "
                f"there are: {', '.join(self._teachers) or 'none'}"
            )
        return pair.teacher_name

    def _bind(self) -> None:
        needed: set[str] = set()
        for teacher_name, teacher in self._teachers.items():
            addresses = self._teacher_addresses(teacher_name, self.distill.by_name())
            teacher.bind(self.student, addresses)
            needed.update(teacher.student_addresses(addresses))
        for name, pair in self.distill.by_name().items():
            needed.update(pair.student)
            model = self._teachers[self._pair_teacher[name]].model
            try:
                pair.check(_specs(self.student, pair.student), _specs(model, pair.teacher))
            except AddressError as error:
                raise AddressError(f"pair {name!r}: {error}") from None
            except ValueError as error:
                raise ValueError(f"pair {name!r}: {error}") from None
        self._tap = FeatureTap(self.student, sorted(needed))

    def _teacher_addresses(self, teacher: str, pairs: Mapping[str, Pair]) -> list[str]:
        used = (a for n, p in pairs.items() if self._pair_teacher[n] == teacher for a in p.teacher)
        return list(dict.fromkeys(used))

    @property
    def teachers(self) -> Mapping[str, Teacher]:
        """The teachers by name; not part of the module tree."""
        return self._teachers

    @property
    def device(self) -> torch.device:
        """The device of the student's first parameter."""
        return next(self.student.parameters()).device

    @property
    def iteration(self) -> int:
        """The iteration that the pairs' schedules see."""
        return self._forwards if self._clock is None else self._clock()

    def forward(self, batch: Any) -> Any:
        """Return losses by name in training (the student's own, and ``distill_*``), the student's output in eval."""
        if not self.training:
            return self.student(batch)
        iteration = self.iteration
        losses, student, teachers = self.observe(batch, iteration)
        sizes = image_sizes(batch)
        for name, pair in self.distill.by_name().items():
            values = pair(
                student, teachers.get(self._pair_teacher[name], {}), image_sizes=sizes, iteration=iteration
            )
            for term, value in values.items():
                losses[f"distill_{name}_{term}" if term else f"distill_{name}"] = value
        self._forwards += 1
        return losses

    def observe(
        self, batch: Any, iteration: int | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, dict[str, Any]]]:
        """Run the student and the teachers once and return what the pairs read.

        Args:
            batch: what the student is trained with.
            iteration: only the pairs that count then; None: all pairs.

        Returns:
            The student's own losses; address -> value of the student; teacher -> address -> value.
        """
        pairs = self.distill.by_name() if iteration is None else self.distill.active(iteration)
        wanted = {t: self._teacher_addresses(t, pairs) for t in self._teachers}
        own = [a for pair in pairs.values() for a in pair.student]
        replayed = [
            a for t, used in wanted.items() if used for a in self._teachers[t].student_addresses(used)
        ]
        with self._tap.record({*own, *replayed}) as values:
            losses = dict(self.student(batch))
        seen = {t: self._teachers[t](batch, values, used) for t, used in wanted.items() if used}
        return losses, values, seen

    def teacher_feature(self, pair: str, seen: Mapping[str, Mapping[str, Any]]) -> tuple[Tensor, int | None]:
        """Return the teacher's feature that `pair` reads, and its stride, from what `observe` returned."""
        its = self.distill.by_name()[pair]
        return seen[self._pair_teacher[pair]][its.teacher[0]], its.stride

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Distiller:
        super()._apply(fn, recurse)
        for teacher in self._teachers.values():
            teacher.model._apply(fn, recurse)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "student":
                raise
            return getattr(self.student, name)


def _specs(model: nn.Module, addresses: Sequence[str]) -> list[FeatureSpec]:
    return [feature_spec(model, address) for address in addresses]


def _to_plain_names(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for key in [k for k in state if k.startswith(prefix + _STUDENT_PREFIX)]:
        state[prefix + key[len(prefix + _STUDENT_PREFIX) :]] = state.pop(key)


def _from_plain_names(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    kept = (prefix + DISTILL_PREFIX, prefix + _STUDENT_PREFIX)
    for key in [k for k in state if k.startswith(prefix) and not k.startswith(kept)]:
        state[prefix + _STUDENT_PREFIX + key[len(prefix) :]] = state.pop(key)
    left_out = [kept[0] + name + "." for name in _of_other_teachers(module, state, kept[0])]
    for key in [k for k in state if k.startswith(tuple(left_out))]:
        del state[key]
    if not any(k.startswith(kept[0]) for k in state):
        left_out.append(kept[0])
    module.__dict__["_left_out"] = tuple(p[len(prefix) :] for p in left_out)


def _of_other_teachers(module: nn.Module, state: Mapping[str, Any], prefix: str) -> list[str]:
    """The pairs whose state in a file was made for another teacher than theirs; it is not theirs to load."""
    others = []
    for name, pair in module.distill.by_name().items():  # type: ignore[union-attr,operator]
        saved = state.get(f"{prefix}{name}.{_FINGERPRINT}")
        if saved is not None and not torch.equal(saved.cpu(), getattr(pair, _FINGERPRINT).cpu()):
            logger.warning(
                "the file's adapters of pair %r were made for another teacher and are left out", name
            )
            others.append(name)
    return others


def _report_plain_names(module: nn.Module, incompatible: Any) -> None:
    """Name keys as the user's files do, and do not miss what was left out: of plain students, of other teachers."""
    left_out = module.__dict__.pop("_left_out", ())
    for keys in (incompatible.missing_keys, incompatible.unexpected_keys):
        names = [k.removeprefix(_STUDENT_PREFIX) for k in keys]
        keys[:] = [k for k in names if not (left_out and k.startswith(left_out))]
