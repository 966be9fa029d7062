"""The student with its taps open: a model like any other whose loss dict has a few more entries."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .modes import batch_norms
from .padding import image_sizes
from .pairs import Pair, Pairs
from .taps import AddressError, FeatureSpec, FeatureTap, feature_spec, resolve
from .targets import Step, mirrored
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
        task_weight: factor on the student's own losses; 0: distillation alone, as in the first of two stages.
        train_only: paths of modules of the student; all its other parameters are frozen, and so are the statistics
            of batch normalisation there. Empty: none is.
        clock: returns the iteration for the pairs' schedules; default: counts training forwards.

    Raises:
        AddressError: an address that a model lacks.
        ValueError: a pair that names no teacher, a teacher that no pair uses, channels or strides that do not fit,
            nothing to train in `train_only`.
    """

    student: nn.Module
    distill: Pairs

    def __init__(
        self,
        student: nn.Module,
        pairs: Pairs | None = None,
        teachers: Mapping[str, Teacher | nn.Module] | None = None,
        *,
        task_weight: float = 1.0,
        train_only: Sequence[str] = (),
        clock: Callable[[], int] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.distill = Pairs() if pairs is None else pairs
        self._teachers = teachers if isinstance(teachers, Teachers) else Teachers(**(teachers or {}))
        self._clock = clock
        self._task_weight = task_weight
        self._resting = _train_only(student, train_only)
        self._forwards = 0
        self._pair_teachers = {
            name: self._teacher_names(name, pair) for name, pair in self.distill.by_name().items()
        }
        unused = set(self._teachers) - {t for names in self._pair_teachers.values() for t in names}
        if unused:
            raise ValueError(
                f"no pair uses the teacher(s) {', '.join(sorted(unused))}: add a pair or drop them"
            )
        self._bind()
        for name, pair in self.distill.by_name().items():
            made_for = "".join(self._teachers[t].fingerprint for t in self._pair_teachers[name])
            pair.register_buffer(_FINGERPRINT, torch.tensor(list(made_for.encode()), dtype=torch.uint8))
        self.register_state_dict_post_hook(_to_plain_names)
        self.register_load_state_dict_pre_hook(_from_plain_names)
        self.register_load_state_dict_post_hook(_report_plain_names)

    def train(self, mode: bool = True) -> Distiller:
        """As in `nn.Module`, but batch normalisation that `train_only` leaves out stays in eval mode."""
        super().train(mode)
        for module in self._resting:
            module.eval()
        return self

    def _teacher_names(self, name: str, pair: Pair) -> tuple[str, ...]:
        if not pair.teacher:
            return ()
        if not pair.teacher_names and len(self._teachers) == 1:
            return (next(iter(self._teachers)),)
        if not pair.teacher_names or not set(pair.teacher_names) <= set(self._teachers):
            raise ValueError(
                f"pair {name!r} asks for teacher {', '.join(map(repr, pair.teacher_names)) or 'None'}; "
                f"there are: {', '.join(self._teachers) or 'none'}"
            )
        return pair.teacher_names

    def _bind(self) -> None:
        needed: set[str] = set()
        for teacher_name, teacher in self._teachers.items():
            addresses = self._teacher_addresses(teacher_name, self.distill.by_name())
            teacher.bind(self.student, addresses)
            needed.update(teacher.student_addresses(addresses))
        for name, pair in self.distill.by_name().items():
            needed.update(pair.student_addresses)
            try:
                own = _specs(self.student, pair.student)
                for teacher_name in self._pair_teachers[name] or ("",):
                    model = self._teachers[teacher_name].model if teacher_name else self.student
                    pair.check(own, _specs(model, pair.teacher))
            except AddressError as error:
                raise AddressError(f"pair {name!r}: {error}") from None
            except ValueError as error:
                raise ValueError(f"pair {name!r}: {error}") from None
        self._tap = FeatureTap(self.student, sorted(needed))

    def _teacher_addresses(self, teacher: str, pairs: Mapping[str, Pair]) -> list[str]:
        used = (a for n, p in pairs.items() if teacher in self._pair_teachers[n] for a in p.teacher_addresses)
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
        """Return losses by name in training (the student's own, and ``distill_*``), the student's output in eval.

        Raises:
            ValueError, RuntimeError: what a pair raises, its message beginning with the pair's name.
        """
        if not self.training:
            return self.student(batch)
        iteration = self.iteration
        losses, student, teachers = self.observe(batch, iteration)
        if self._task_weight != 1.0:
            losses = {name: value * self._task_weight for name, value in losses.items()}
        step = Step(image_sizes(batch), iteration, batch, self._mirrored(batch, iteration))
        for name, pair in self.distill.by_name().items():
            try:
                values = pair(student, [teachers.get(t, {}) for t in self._pair_teachers[name]], step)
            except (ValueError, RuntimeError) as error:
                error.args = (f"pair {name!r}: {error}", *error.args[1:])  # its type and traceback stay
                raise
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
        own = [a for pair in pairs.values() for a in pair.student_addresses]
        replayed = [
            a for t, used in wanted.items() if used for a in self._teachers[t].student_addresses(used)
        ]
        with self._tap.record({*own, *replayed}, differentiable=_inputs(pairs.values(), "student")) as values:
            losses = dict(self.student(batch))
        seen = {
            t: self._teachers[t](
                batch, values, used, differentiable=_inputs(self._pairs_of(t, pairs), "teacher")
            )
            for t, used in wanted.items()
            if used
        }
        return losses, values, seen

    def _mirrored(self, batch: Any, iteration: int) -> dict[str, Any] | None:
        """The student's values on mirrored images, from a second forward pass, for the pairs that want them."""
        pairs = [p for p in self.distill.active(iteration).values() if "mirrored" in p.needs]
        if not pairs:
            return None
        own = {a for pair in pairs for a in pair.student}
        with self._tap.record(own, differentiable=_inputs(pairs, "student")) as values:
            self.student(mirrored(batch))
        return values

    def _pairs_of(self, teacher: str, pairs: Mapping[str, Pair]) -> list[Pair]:
        return [pair for name, pair in pairs.items() if teacher in self._pair_teachers[name]]

    def teacher_feature(self, pair: str, seen: Mapping[str, Mapping[str, Any]]) -> tuple[Tensor, int | None]:
        """Return the teacher's feature that `pair` reads, adapted, and its stride, from what `observe` returned."""
        its = self.distill.by_name()[pair]
        feature = seen[self._pair_teachers[pair][0]][its.teacher[0]]
        stride = its.teacher_strides[0] or its.strides[0]
        return (feature if its.teacher_adapter is None else its.teacher_adapter(feature)), stride

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


def _inputs(pairs: Iterable[Pair], side: str) -> set[str]:
    """The tapped inputs of pairs that differentiate with respect to them."""
    return {a for p in pairs if p.differentiates_input for a in getattr(p, side) if "@" in a}


def _train_only(student: nn.Module, paths: Sequence[str]) -> list[nn.Module]:
    """Freeze all parameters but those in `paths`; return the batch normalisation outside, in eval mode."""
    if not paths:
        return []
    trained = {module for path in paths for module in resolve(student, path).modules()}
    kept = {p for module in trained for p in module.parameters(recurse=False) if p.requires_grad}
    if not kept:
        raise ValueError(f"train_only {', '.join(paths)}: there is nothing to train in it")
    for parameter in student.parameters():
        parameter.requires_grad_(parameter in kept)
    return [m.eval() for m in batch_norms(student) if m not in trained]


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


def made_for_another_teacher(pair: nn.Module, state: Mapping[str, Any], prefix: str) -> bool:
    """Whether a pair's state in a file, below `prefix`, was made for another teacher than the pair's."""
    saved = state.get(prefix + _FINGERPRINT)
    return saved is not None and not torch.equal(saved.cpu(), getattr(pair, _FINGERPRINT).cpu())


def _of_other_teachers(module: nn.Module, state: Mapping[str, Any], prefix: str) -> list[str]:
    """The pairs whose state in a file was made for another teacher than theirs; it is not theirs to load."""
    others = []
    for name, pair in module.distill.by_name().items():  # type: ignore[union-attr,operator]
        if made_for_another_teacher(pair, state, f"{prefix}{name}."):
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
