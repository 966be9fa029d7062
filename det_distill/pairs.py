"""What the student imitates, where: `Pair` compares two addresses, `Pairs` holds them by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapters.channels import channels_after
from .alignment import align_maps
from .features import feature, full_precision
from .padding import valid_cells
from .selection import Selection
from .taps import FeatureSpec
from .targets import Step, boxes_in_cells, labels_of

__all__ = ["Pair", "Pairs"]

Addresses = str | Sequence[str]
Strides = int | None | Sequence[int | None]


def _as_tuple(addresses: Addresses) -> tuple[str, ...]:
    return (addresses,) if isinstance(addresses, str) else tuple(addresses)


class Pair(nn.Module):
    """One or several losses between a student's and a teacher's feature.

    ``value = weight(iteration) * loss(student_adapter(S), teacher_adapter(T))``, one value per named loss.

    A loss may ask for more by its attribute ``needs``: ``"labels"`` (R,), the class of each row, ``"foreground"`` (R,),
    whether that is an object, ``"boxes"``, each image's ground-truth boxes in cells of the student's map, and
    ``"mirrored"``, the student's values on mirrored images. A loss with ``differentiates_input`` gets values that
    can be differentiated with respect to the tapped inputs, of the teacher's too.

    Args:
        student: address in the student (several for losses that compare sets of maps; the loss then gets lists).
        teacher: address in the teacher; as many, or none for a loss that has no teacher.
        loss: a loss ``(student, teacher) -> scalar``, or several by name that share the adapters.
        weight: factor of the loss; a mapping gives each named loss its own.
        start: first iteration at which the pair counts.
        stop: first iteration at which it no longer counts; None: never.
        warmup: iterations over which the weight grows linearly from ``weight / warmup`` to ``weight``.
        teacher_name: which teacher; None when there is only one; several with an `ensemble`.
        student_adapter: applied to the student's feature, trained with the student, left behind at export.
        teacher_adapter: applied to the teacher's feature; frozen, or without parameters. An adapter with the attribute
            ``takes_all`` is applied to the list of a side's features, any other to each of them.
        ensemble: makes one feature of the list of several teachers' features, before the teacher's adapter.
        select: which rows or cells count; default: all.
        align: two maps of unequal height or width are compared on their common top-left part (``"crop"``: both have
            the same stride and differ in rounding or padding), or the teacher's is resized bilinearly to the
            student's grid (``"resize"``: the strides differ).
        stride: input pixels per cell of the student's map, for each address. With it, cells that lie wholly in the
            padding of a batch of unequal images are left out of the loss.
        teacher_stride: input pixels per cell of the teacher's map. With both, resizing first crops the two maps to the
            part of the input that both cover: the models may pad a batch differently.
        labels: address in the student of its labelled proposals, one row each; None: the batch has a ``label`` for
            each row.
        classes: number of classes; a label of at least this is the background.

    Raises:
        ValueError: a weight, a schedule, `align`, a selection or numbers of addresses that make no sense.
    """

    def __init__(
        self,
        student: Addresses,
        teacher: Addresses,
        loss: nn.Module | Mapping[str, nn.Module],
        *,
        weight: float | Mapping[str, float] = 1.0,
        start: int = 0,
        stop: int | None = None,
        warmup: int = 0,
        teacher_name: Addresses | None = None,
        student_adapter: nn.Module | None = None,
        teacher_adapter: nn.Module | None = None,
        ensemble: nn.Module | None = None,
        select: Selection | None = None,
        align: str = "crop",
        stride: Strides = None,
        teacher_stride: Strides = None,
        labels: str | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        if align not in ("crop", "resize"):
            raise ValueError(f"align must be 'crop' or 'resize', not {align!r}")
        if start < 0 or warmup < 0 or (stop is not None and stop <= start):
            raise ValueError(f"schedule start={start}, stop={stop}, warmup={warmup}: needs 0 <= start < stop")
        self.student, self.teacher = _as_tuple(student), _as_tuple(teacher)
        if self.teacher and len(self.student) != len(self.teacher):
            raise ValueError(f"unequal numbers of addresses: student {self.student}, teacher {self.teacher}")
        losses = {"": loss} if isinstance(loss, nn.Module) else dict(loss)
        if not losses:
            raise ValueError(f"the pair of {self.student} and {self.teacher} has no loss")
        self.terms = tuple(losses)
        self.losses = nn.ModuleDict({name or "loss": module for name, module in losses.items()})
        self.weights = {n: float(weight[n] if isinstance(weight, Mapping) else weight) for n in self.terms}
        if not all(0 <= w < math.inf for w in self.weights.values()):
            raise ValueError(f"weight {weight!r}: needs finite numbers of at least 0")
        self.start, self.stop, self.warmup = start, stop, warmup
        self.teacher_names = () if teacher_name is None else _as_tuple(teacher_name)
        if len(self.teacher_names) > 1 and ensemble is None:
            raise ValueError(f"several teachers, {', '.join(self.teacher_names)}, need an ensemble")
        self.student_adapter, self.teacher_adapter, self.ensemble = student_adapter, teacher_adapter, ensemble
        self.align = align
        self.strides = _per_address(stride, len(self.student))
        self.teacher_strides = _per_address(teacher_stride, len(self.student))
        self.labels, self.classes = labels, classes
        self.select = select or Selection()
        self.needs = {n for m in self.losses.values() for n in getattr(m, "needs", ())} | self.select.needs
        if self.differentiates_input and self.select.which != "all":
            raise ValueError(
                f"SELECT {self.select.which!r}: a loss of input gradients is one of whole images; use 'all'"
            )
        if "boxes" in self.needs and None in self.strides:
            raise ValueError(
                f"{self.student}: ground-truth boxes on a map need its stride, which is not known"
            )
        if "foreground" in self.needs and classes is None:
            raise ValueError(
                f"{self.student}: the background has no number, because the class count is not known"
            )

    @property
    def student_addresses(self) -> tuple[str, ...]:
        """What is to be recorded in the student."""
        wanted = self.labels is not None and self.needs & {"labels", "foreground"}
        return (*self.student, str(self.labels)) if wanted else self.student

    @property
    def teacher_addresses(self) -> tuple[str, ...]:
        """What is to be recorded in each of its teachers."""
        return (*self.teacher, *filter(None, [self.select.logits]))

    @property
    def differentiates_input(self) -> bool:
        """Whether a loss differentiates with respect to tapped inputs."""
        return any(getattr(loss, "differentiates_input", False) for loss in self.losses.values())

    def schedule(self, iteration: int) -> float:
        """Return the factor in [0, 1] on the weights at `iteration`."""
        if iteration < self.start or (self.stop is not None and iteration >= self.stop):
            return 0.0
        return min(1.0, (iteration - self.start + 1) / self.warmup) if self.warmup else 1.0

    def check(self, student: Sequence[FeatureSpec], teacher: Sequence[FeatureSpec]) -> None:
        """Compare what is known of the two features before anything runs.

        Raises:
            ValueError: strides differ and nothing resizes, or channels differ and no adapter makes them equal.
        """
        if not self.teacher:
            return
        for s, t, s_at, t_at in zip(student, teacher, self.student, self.teacher, strict=True):
            if self.align == "crop" and s.stride and t.stride and s.stride != t.stride:
                raise ValueError(
                    f"student {s_at!r} has stride {s.stride}, teacher {t_at!r} has stride {t.stride}: pair maps of "
                    "equal stride, or set align='resize'"
                )
            if not all(getattr(loss, "needs_equal_channels", True) for loss in self.losses.values()):
                continue
            s_channels = channels_after(self.student_adapter, s.channels)
            t_channels = channels_after(self.teacher_adapter, t.channels)
            if s_channels and t_channels and s_channels != t_channels:
                raise ValueError(
                    f"student {s_at!r} gives {s_channels} channels, teacher {t_at!r} gives {t_channels}: add "
                    f"student_adapter=Conv1x1({s.channels}, {t_channels}) for maps or Linear({s.channels}, "
                    f"{t_channels}) for vectors"
                )

    def forward(
        self,
        student: Mapping[str, Any],
        teacher: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        step: Step | None = None,
    ) -> dict[str, Tensor]:
        """Return each term's weighted value by the loss's name ("" for a lone loss).

        Args:
            student: address -> value recorded in the student.
            teacher: address -> value recorded in this pair's teacher, or one such mapping per teacher.
            step: what else is known of the step. When the pair is off, the features are not read and every value is a
                zero that is attached to the adapters, so that distributed training sees each parameter used.
        """
        step = step or Step()
        factor = self.schedule(step.iteration)
        if factor == 0.0:
            return dict.fromkeys(self.terms, self._attached_zero())
        teachers = [teacher] if isinstance(teacher, Mapping) else teacher
        s_features = self._adapt(self.student_adapter, [feature(student, a) for a in self.student])
        with torch.set_grad_enabled(self.differentiates_input):
            t_features = [full_precision(self._of_teachers(teachers, a)) for a in self.teacher]
            t_features = self._adapt(self.teacher_adapter, t_features) if self.teacher else []
        if self.teacher:
            aligned = [
                self._aligned(n, s, t) for n, (s, t) in enumerate(zip(s_features, t_features, strict=True))
            ]
            s_features, t_features = [s for s, _ in aligned], [t for _, t in aligned]
        shrunk = getattr(self.student_adapter, "downsampling", 1)
        strides = [None if n is None else n * shrunk for n in self.strides]
        valid = [valid_cells(s, n, step.image_sizes) for s, n in zip(s_features, strides, strict=True)]
        known = self._known(student, s_features[0], strides[0], step)
        s_features, t_features, valid, known = self.select(s_features, t_features, valid, known, teachers)
        sides: list[Any] = [s_features, t_features]
        keywords: dict[str, Any] = {} if all(v is None for v in valid) else {"valid": valid}
        if len(self.student) == 1:
            sides = [side[0] if side else None for side in sides]
            keywords = {k: v[0] for k, v in keywords.items()}
        values = {}
        for name in self.terms:
            loss = self.losses[name or "loss"]
            extra = {k: known[k] for k in getattr(loss, "needs", ())}
            values[name] = self.weights[name] * factor * loss(*sides, **keywords, **extra)
        return values

    def _known(
        self, student: Mapping[str, Any], compared: Tensor, stride: int | None, step: Step
    ) -> dict[str, Any]:
        """The values of `needs` by name."""
        known: dict[str, Any] = {}
        if self.needs & {"labels", "foreground"}:
            labels = labels_of(step.batch if self.labels is None else student[self.labels], compared.device)
            known["labels"] = labels
            if self.classes is not None:
                known["foreground"] = labels < self.classes
        if "boxes" in self.needs and stride is not None:
            known["boxes"] = boxes_in_cells(step.batch, stride, compared.device)
        if "mirrored" in self.needs and step.mirrored is not None:
            known["mirrored"] = [step.mirrored[a] for a in self.student]
        return known

    def _of_teachers(self, teachers: Sequence[Mapping[str, Any]], address: str) -> Tensor:
        if self.ensemble is None:
            return feature(teachers[0], address)
        joined: Tensor = self.ensemble([full_precision(feature(values, address)) for values in teachers])
        return joined

    def _aligned(self, which: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        strides = self.strides[which], self.teacher_strides[which]
        names = self.student[which], self.teacher[which]
        return align_maps(student, teacher, resize=self.align == "resize", strides=strides, names=names)

    def _attached_zero(self) -> Tensor:
        parameters = [p.flatten()[:0] for p in self.parameters() if p.requires_grad]
        return torch.cat(parameters).sum() if parameters else torch.zeros(())

    @staticmethod
    def _adapt(adapter: nn.Module | None, features: list[Tensor]) -> list[Tensor]:
        if adapter is None:
            return features
        return (
            list(adapter(features))
            if getattr(adapter, "takes_all", False)
            else [adapter(x) for x in features]
        )


def _per_address(stride: Strides, count: int) -> tuple[int | None, ...]:
    strides = (stride,) * count if stride is None or isinstance(stride, int) else tuple(stride)
    if len(strides) != count:
        raise ValueError(f"{count} addresses and {len(strides)} strides: give one for each")
    return strides


class Pairs(nn.ModuleDict):
    """Pairs by name; the names become the losses' names, ``distill_<pair>`` or ``distill_<pair>_<loss>``.

    Takes keyword arguments because LazyConfig's ``instantiate`` does not descend into a plain dict.

    Raises:
        ValueError: a name that cannot be used, or a value that is not a `Pair`.
    """

    def __init__(self, **pairs: Pair) -> None:
        for name, pair in pairs.items():
            if not isinstance(pair, Pair):
                raise ValueError(f"pair {name!r} must be a Pair, not {type(pair).__name__}")
            if not name.isidentifier() or hasattr(nn.ModuleDict, name):
                raise ValueError(
                    f"{name!r} cannot name a pair; use letters, digits and '_', for example 'ft_p3'"
                )
        super().__init__(pairs)

    def active(self, iteration: int) -> dict[str, Pair]:
        """Return the pairs that count at `iteration`, by name."""
        return {name: pair for name, pair in self.by_name().items() if pair.schedule(iteration) > 0}

    def by_name(self) -> dict[str, Pair]:
        """Return the pairs as a plain dict."""
        return dict(self.items())  # type: ignore[arg-type]
