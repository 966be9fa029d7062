"""What the student imitates, where: `Pair` compares two addresses, `Pairs` holds them by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .padding import valid_cells
from .taps import FeatureSpec

__all__ = ["Pair", "Pairs"]

Addresses = str | Sequence[str]


def _as_tuple(addresses: Addresses) -> tuple[str, ...]:
    return (addresses,) if isinstance(addresses, str) else tuple(addresses)


class Pair(nn.Module):
    """One or several losses between a student's and a teacher's feature.

    ``value = weight(iteration) * loss(student_adapter(S), teacher_adapter(T))``, one value per named loss.

    Args:
        student: address in the student (several for losses that compare pairs of maps of one network).
        teacher: address in the teacher.
        loss: a loss ``(student, teacher) -> scalar``, or several by name that share the adapters.
        weight: factor of the loss; a mapping gives each named loss its own.
        start: first iteration at which the pair counts.
        stop: first iteration at which it no longer counts; None: never.
        warmup: iterations over which the weight grows linearly from ``weight / warmup`` to ``weight``.
        teacher_name: which teacher; None when there is only one.
        student_adapter: applied to the student's feature, trained with the student, left behind at export.
        teacher_adapter: applied to the teacher's feature; frozen, or without parameters.
        align: two maps of unequal height or width are compared on their common top-left part (``"crop"``: both have
            the same stride and differ in rounding or padding), or the teacher's is resized bilinearly to the
            student's grid (``"resize"``: the strides differ).
        stride: input pixels per cell of the student's map. With it, cells that lie wholly in the padding of a batch
            of unequal images are left out of the loss.
        teacher_stride: input pixels per cell of the teacher's map. With both, resizing first crops the two maps to the
            part of the input that both cover: the models may pad a batch differently.

    Raises:
        ValueError: a schedule or `align` that makes no sense.
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
        teacher_name: str | None = None,
        student_adapter: nn.Module | None = None,
        teacher_adapter: nn.Module | None = None,
        align: str = "crop",
        stride: int | None = None,
        teacher_stride: int | None = None,
    ) -> None:
        super().__init__()
        if align not in ("crop", "resize"):
            raise ValueError(f"align must be 'crop' or 'resize', not {align!r}")
        if start < 0 or warmup < 0 or (stop is not None and stop <= start):
            raise ValueError(f"schedule start={start}, stop={stop}, warmup={warmup}: needs 0 <= start < stop")
        self.student, self.teacher = _as_tuple(student), _as_tuple(teacher)
        if len(self.student) != len(self.teacher):
            raise ValueError(f"unequal numbers of addresses: student {self.student}, teacher {self.teacher}")
        losses = {"": loss} if isinstance(loss, nn.Module) else dict(loss)
        if not losses:
            raise ValueError(f"the pair of {self.student} and {self.teacher} has no loss")
        self.terms = tuple(losses)
        self.losses = nn.ModuleDict({name or "loss": module for name, module in losses.items()})
        self.weights = {n: float(weight[n] if isinstance(weight, Mapping) else weight) for n in self.terms}
        self.start, self.stop, self.warmup = start, stop, warmup
        self.teacher_name = teacher_name
        self.student_adapter = student_adapter
        self.teacher_adapter = teacher_adapter
        self.align = align
        self.stride, self.teacher_stride = stride, teacher_stride

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
        for s, t, s_at, t_at in zip(student, teacher, self.student, self.teacher, strict=True):
            if self.align == "crop" and s.stride and t.stride and s.stride != t.stride:
                raise ValueError(
                    f"student {s_at!r} has stride {s.stride}, teacher {t_at!r} has stride {t.stride}: pair maps of "
                    "equal stride, or set align='resize'"
                )
            if not all(getattr(loss, "needs_equal_channels", True) for loss in self.losses.values()):
                continue
            s_channels = _channels_after(self.student_adapter, s.channels)
            t_channels = _channels_after(self.teacher_adapter, t.channels)
            if s_channels and t_channels and s_channels != t_channels:
                raise ValueError(
                    f"student {s_at!r} gives {s_channels} channels, teacher {t_at!r} gives {t_channels}: add "
                    f"student_adapter=Conv1x1({s.channels}, {t_channels}) for maps or Linear({s.channels}, "
                    f"{t_channels}) for vectors"
                )

    def forward(
        self,
        student: Mapping[str, Any],
        teacher: Mapping[str, Any],
        *,
        image_sizes: Sequence[tuple[int, int]] | None = None,
        iteration: int = 0,
    ) -> dict[str, Tensor]:
        """Return each term's weighted value by the loss's name ("" for a lone loss).

        Args:
            student: address -> value recorded in the student.
            teacher: address -> value recorded in this pair's teacher.
            image_sizes: (height, width) in pixels of every image of the batch, before padding.
            iteration: for the schedule. When the pair is off, the features are not read and every value is a zero
                that is attached to the adapters, so that distributed training sees each parameter used.
        """
        factor = self.schedule(iteration)
        if factor == 0.0:
            return dict.fromkeys(self.terms, self._attached_zero())
        s_maps = [self._adapt(self.student_adapter, student[a]) for a in self.student]
        with torch.no_grad():
            t_maps = [self._adapt(self.teacher_adapter, _full_precision(teacher[a])) for a in self.teacher]
        aligned = [self._align(s, t) for s, t in zip(s_maps, t_maps, strict=True)]
        valid = [valid_cells(s, self.stride, image_sizes) for s, _ in aligned]
        sides: list[Any] = [[s for s, _ in aligned], [t for _, t in aligned]]
        keywords: dict[str, Any] = {} if valid[0] is None else {"valid": valid}
        if len(aligned) == 1:
            sides, keywords = [side[0] for side in sides], {k: v[0] for k, v in keywords.items()}
        return {
            name: self.weights[name] * factor * self.losses[name or "loss"](*sides, **keywords)
            for name in self.terms
        }

    def _attached_zero(self) -> Tensor:
        parameters = [p for p in self.parameters() if p.requires_grad]
        if not parameters:
            return torch.zeros(())
        return torch.cat([p.flatten()[:0] for p in parameters]).sum()

    @staticmethod
    def _adapt(adapter: nn.Module | None, feature: Tensor) -> Tensor:
        return feature if adapter is None else adapter(feature)

    def _common_part(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Crop both maps to the cells inside the pixels that both cover."""
        if self.stride is None or self.teacher_stride is None:
            return student, teacher
        pixels = [
            min(s * self.stride, t * self.teacher_stride)
            for s, t in zip(student.shape[-2:], teacher.shape[-2:], strict=True)
        ]
        own, its = ([-(-p // stride) for p in pixels] for stride in (self.stride, self.teacher_stride))
        return student[..., : own[0], : own[1]], teacher[..., : its[0], : its[1]]

    def _align(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        if student.dim() != 4 or teacher.dim() != 4 or student.shape[-2:] == teacher.shape[-2:]:
            return student, teacher
        if self.align == "resize":
            student, teacher = self._common_part(student, teacher)
            size = student.shape[-2:]
            return student, F.interpolate(teacher.float(), size=size, mode="bilinear", align_corners=False)
        height, width = (min(student.shape[d], teacher.shape[d]) for d in (-2, -1))
        larger = max(student.shape[-2] / height, teacher.shape[-2] / height, student.shape[-1] / width)
        if max(larger, teacher.shape[-1] / width) >= 2 and min(height, width) > 1:
            raise ValueError(
                f"maps of {self.student[0]!r} {tuple(student.shape)} and {self.teacher[0]!r} "
                f"{tuple(teacher.shape)} differ in stride: pair maps of equal stride or set align='resize'"
            )
        return student[..., :height, :width], teacher[..., :height, :width]


def _channels_after(adapter: nn.Module | None, channels: int | None) -> int | None:
    """Channels that leave an adapter, if it tells."""
    if adapter is None:
        return channels
    names = ("out_channels", "factor_channels", "out_features")
    return next((getattr(adapter, n) for n in names if hasattr(adapter, n)), None)


def _full_precision(feature: Tensor) -> Tensor:
    """A teacher may run in half precision while frozen adapters keep float32 weights."""
    return feature.float() if feature.dtype in (torch.float16, torch.bfloat16) else feature


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
