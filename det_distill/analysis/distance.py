"""The squared distance of two features, split into what is due to their lengths and what to their directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..losses.inputs import rows_of

__all__ = ["Distance", "DistanceMeter"]


class Distance(NamedTuple):
    """Means over rows of a student's and a teacher's features.

        |f_s - f_t|^2  =  (|f_s| - |f_t|)^2  +  2 |f_s| |f_t| (1 - cos)
           squared     =      magnitude      +       direction

    ``cosine``: of the angle between the two, over rows in which neither is zero. ``norm_ratio``: |f_s| / |f_t| over
    rows in which the teacher's is not zero. NaN where there is no such row. ``zero_rows``: rows in which one side is
    zero, or both are.
    """

    rows: int
    squared: float
    magnitude: float
    direction: float
    cosine: float
    norm_ratio: float
    zero_rows: int

    @property
    def magnitude_share(self) -> float:
        """The part of the squared distance that lengths make; 0 where there is no distance."""
        return self.magnitude / self.squared if self.squared else 0.0

    @property
    def direction_share(self) -> float:
        """The part that directions make; 0 where there is no distance."""
        return self.direction / self.squared if self.squared else 0.0


class DistanceMeter(nn.Module):
    """Takes a loss's place in a pair and adds up `Distance` over all it is called with; returns a zero.

    Rows are vectors (R, C) or the cells of maps (B, C, H, W), with `valid` only those that lie in their image. Lists
    of features, of pairs with several addresses, are taken one after the other. Sums are in float64.

    Args:
        name: of the pair, for messages.
    """

    needs_equal_channels = False

    def __init__(self, name: str = "distance") -> None:
        super().__init__()
        self._name = name
        self._sums = torch.zeros(5, dtype=torch.float64)
        self._counts = torch.zeros(3, dtype=torch.int64)

    @torch.no_grad()
    def forward(self, student: Any, teacher: Any, valid: Any = None, **_: Any) -> Tensor:
        """Take the features that a pair compares.

        Raises:
            ValueError: there is no teacher's feature, or it has another shape.
        """
        several = isinstance(student, (list, tuple))
        own: Sequence[Tensor] = student if several else [student]
        its: Sequence[Any] = teacher if several else [teacher]
        masks: Sequence[Tensor | None] = (valid if several else [valid]) or [None] * len(own)
        for s, t, mask in zip(own, its or [None] * len(own), masks, strict=True):
            self._add(s, t, mask)
        return own[0].new_zeros(())

    def _add(self, student: Tensor, teacher: Any, valid: Tensor | None) -> None:
        shape = tuple(teacher.shape) if isinstance(teacher, Tensor) else "no feature"
        if not isinstance(teacher, Tensor) or student.shape != teacher.shape or student.dim() not in (2, 4):
            raise ValueError(
                f"{self._name}: the student gives {tuple(student.shape)} and the teacher {shape}; a distance needs "
                "vectors (R, C) or maps (B, C, H, W) of one shape"
            )
        s, t = rows_of(student).double(), rows_of(teacher).double()
        if valid is not None:
            s, t = s[valid.flatten()], t[valid.flatten()]
        length, its = torch.linalg.vector_norm(s, dim=1), torch.linalg.vector_norm(t, dim=1)
        product = (s * t).sum(1)
        some, both = its > 0, (length > 0) & (its > 0)
        terms = [
            (s - t).square().sum(1),
            (length - its).square(),
            2 * (length * its - product),
            (product / (length * its))[both],
            (length / its)[some],
        ]
        self._sums += torch.stack([term.sum() for term in terms]).cpu()
        self._counts += torch.tensor([len(s), int(both.sum()), int(some.sum())])

    def result(self) -> Distance:
        """Return the means over everything since it was made.

        Raises:
            ValueError: nothing was taken.
        """
        rows, both, some = self._counts.tolist()
        if not rows:
            raise ValueError(
                f"{self._name}: no row was compared: no proposals, no cells, or nothing that the pair selects"
            )
        squared, magnitude, direction, cosine, ratio = self._sums.tolist()
        return Distance(
            rows,
            squared / rows,
            magnitude / rows,
            direction / rows,
            cosine / both if both else float("nan"),
            ratio / some if some else float("nan"),
            rows - both,
        )
