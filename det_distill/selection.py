"""Which rows or cells of a pair's features enter its losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .targets import cells_in_boxes

__all__ = ["Selection"]


class Selection:
    """Keeps some rows (R, C), or some cells of maps (B, C, H, W), of both sides.

    ``"all"``               everything
    ``"foreground"``        rows whose label is an object; cells that a ground-truth box touches
    ``"teacher_correct"``   rows whose class the teacher gets right, judged by the largest of its logits (the authors'
                            variant ``_s`` of feature mimicking, DoctorKey/LSHFM.singleclassification)

    The losses' means are then over what is kept; where nothing is kept they are zero, attached to the graph.

    Args:
        which: one of the above.
        strides: of maps, input pixels per cell of each of the student's, as far as known; None for vectors.
        logits: address of the teacher's class logits, (R, K), for ``"teacher_correct"``.

    Raises:
        ValueError: an unknown choice, or one that makes no sense there.
    """

    def __init__(
        self,
        which: Literal["all", "foreground", "teacher_correct"] = "all",
        *,
        strides: Sequence[int | None] | None = None,
        logits: str | None = None,
    ) -> None:
        if which not in ("all", "foreground", "teacher_correct"):
            raise ValueError(f"SELECT {which!r}: choose 'all', 'foreground' or 'teacher_correct'")
        if which == "teacher_correct" and (strides is not None or logits is None):
            raise ValueError(
                "SELECT 'teacher_correct' goes with vectors of a model that has class logits for them"
            )
        self.which, self.strides = which, strides
        self.logits = logits if which == "teacher_correct" else None

    @property
    def needs(self) -> set[str]:
        """What the pair has to know."""
        if self.which == "all":
            return set()
        return {"labels"} if self.logits else {"boxes"} if self.strides is not None else {"foreground"}

    def __call__(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        valid: list[Tensor | None],
        known: dict[str, Any],
        teachers: Sequence[Mapping[str, Any]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor | None], dict[str, Any]]:
        """Return features, masks and knowledge, cut down."""
        if self.which == "all":
            return student, teacher, valid, known
        if self.strides is not None:
            return student, teacher, self._inside(self.strides, student, valid, known["boxes"]), known
        keep = known["foreground"] if self.logits is None else self._correct(teachers, known["labels"])
        keep = keep.nonzero()[:, 0]
        known = {k: v[keep] if k in ("labels", "foreground") else v for k, v in known.items()}
        return [s[keep] for s in student], [t[keep] for t in teacher], valid, known

    def _correct(self, teachers: Sequence[Mapping[str, Any]], labels: Tensor) -> Tensor:
        logits = torch.stack([values[str(self.logits)].float() for values in teachers]).mean(0)
        return logits.argmax(1) == labels

    @staticmethod
    def _inside(
        strides: Sequence[int | None],
        student: list[Tensor],
        valid: list[Tensor | None],
        boxes: Sequence[Tensor],
    ) -> list[Tensor | None]:
        """Restrict each map's mask to the boxes, which are in cells of the first."""
        masks: list[Tensor | None] = []
        for stride, feature, mask in zip(strides, student, valid, strict=True):
            scale = strides[0] / stride if strides[0] and stride else 1.0
            inside = cells_in_boxes([b * scale for b in boxes], *feature.shape[-2:]).to(feature.device)
            masks.append(inside if mask is None else inside & mask)
        return masks
