"""Every number of the report on detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...evaluation.coco import CocoPrecision, coco_average_precision
from ...evaluation.columns import GroundTruth
from ...evaluation.errors import IGNORED, RIGHT, ErrorBreakdown, error_breakdown, precision_curve
from ...evaluation.voc import OVERLAPS, VocPrecision, voc_average_precision
from .sources import Found

__all__ = ["SIZES", "Measured", "Operation", "measure", "objects_by_size"]

SIZES: Mapping[str, tuple[float, float]] = {
    "s": (0, 32**2),
    "m": (32**2, 96**2),
    "l": (96**2, float("inf")),
}
"""COCO's sizes of objects, from the first up to the second area in square pixels."""


@dataclass(frozen=True)
class Operation:
    """What a detector does if boxes below a score are thrown away.

    Attributes:
        found, missed: objects.
        wrong: boxes.
    """

    found: int
    missed: int
    wrong: int

    @property
    def recall(self) -> float:
        """The share of the objects that are found; NaN without objects."""
        return self.found / (self.found + self.missed) if self.found + self.missed else float("nan")

    @property
    def precision(self) -> float:
        """The share of the boxes that find an object; NaN without boxes."""
        return self.found / (self.found + self.wrong) if self.found + self.wrong else float("nan")


@dataclass(frozen=True)
class Measured:
    """A detector on a data set of C classes.

    Attributes:
        found: its detections and its cost.
        truth: the objects.
        num_classes: C.
        coco: by COCO's rules.
        voc: by VOC's rules, (10, C) for the overlaps 0.50, 0.55, ..., 0.95.
        errors: at an overlap of 0.5.
        threshold: the score from which boxes are shown.
    """

    found: Found
    truth: GroundTruth
    num_classes: int
    coco: CocoPrecision
    voc: VocPrecision
    errors: ErrorBreakdown
    threshold: float

    @property
    def name(self) -> str:
        """What the report calls the detector."""
        return self.found.source.name

    @cached_property
    def table(self) -> dict[str, float]:
        """AP in percent by both rules, NaN for what has no object; keys ``voc/AP``, ``coco/APs``, ..."""
        return self._row(None)

    def class_table(self, category: int) -> dict[str, float]:
        """The same of one class."""
        return self._row(category)

    def _row(self, category: int | None) -> dict[str, float]:
        columns = slice(None) if category is None else slice(category, category + 1)
        area = self.voc.area[:, columns]
        values = {
            "voc/AP": _mean(area),
            "voc/AP50": _mean(area[0]),
            "voc/AP75": _mean(area[5]),
            "voc/AP50-11point": _mean(self.voc.eleven_point[0, columns]),
            "coco/AP": self.coco.average(category=category),
            "coco/AP50": self.coco.average(category=category, overlap=0),
            "coco/AP75": self.coco.average(category=category, overlap=5),
            **{f"coco/AP{size}": self.coco.average(category=category, area=size) for size in SIZES},
        }
        return {key: 100 * value for key, value in values.items()}

    def curve(self, category: int | None = None) -> np.ndarray:
        """(101,) best precision at recall 0, 0.01, ..., 1 at an overlap of 0.5; None: the mean of the classes.

        NaN for a class without objects.
        """
        if category is None:
            curves = np.array([self.curve(index) for index in range(self.num_classes)])
            there = ~np.isnan(curves[:, 0]) if len(curves) else np.zeros(0, dtype=bool)
            return curves[there].mean(axis=0) if there.any() else np.full(101, np.nan)
        objects = self.objects(category)
        if not objects:
            return np.full(101, np.nan)
        detections = self.found.detections
        rows = np.flatnonzero((detections.category == category) & (self.errors.kind != IGNORED))
        rows = rows[np.lexsort((detections.image[rows], -detections.score[rows]))]
        return precision_curve(self.errors.kind[rows] == RIGHT, objects)

    def objects(self, category: int) -> int:
        """The number of objects of a class that are to be found."""
        return int((self.errors.counted & (self.truth.category == category)).sum())

    def all_objects(self, category: int | None = None) -> tuple[int, int]:
        """How many objects of a class, or of all, COCO's rules count: the ordinary ones, those marked difficult."""
        there = (
            ~self.truth.crowd if category is None else ~self.truth.crowd & (self.truth.category == category)
        )
        return int((there & ~self.truth.difficult).sum()), int((there & self.truth.difficult).sum())

    def operation(self, category: int | None = None) -> Operation:
        """What is found, missed and wrong at the threshold; None: of all classes together."""
        detections, kind = self.found.detections, self.errors.kind
        boxes = detections.score >= self.threshold
        objects = self.errors.counted
        if category is not None:
            boxes, objects = (
                boxes & (detections.category == category),
                objects & (self.truth.category == category),
            )
        right = int((boxes & (kind == RIGHT)).sum())
        wrong = int((boxes & (kind != RIGHT) & (kind != IGNORED)).sum())
        return Operation(right, int(objects.sum()) - right, wrong)


def measure(
    found: Sequence[Found],
    truth: GroundTruth,
    num_classes: int,
    *,
    threshold: float = 0.5,
    count_difficult: bool = False,
) -> list[Measured]:
    """Measure every detector on the same objects.

    Args:
        found: the detectors.
        truth: the objects.
        num_classes: C.
        threshold: of the scores, for what is shown and counted as found, missed and wrong; AP has none.
        count_difficult: difficult objects are ordinary ones by VOC's rules and among the errors, as by COCO's.
    """
    measured = []
    for one in found:
        voc = voc_average_precision(
            one.detections, truth, num_classes, iou=OVERLAPS, count_difficult=count_difficult
        )
        errors = error_breakdown(one.detections, truth, num_classes, count_difficult=count_difficult)
        coco = coco_average_precision(one.detections, truth, num_classes)
        measured.append(Measured(one, truth, num_classes, coco, voc, errors, threshold))
    return measured


def objects_by_size(truth: GroundTruth) -> dict[str, tuple[int, int]]:
    """How many objects COCO's rules count at each size: the ordinary ones, those marked difficult."""
    area, difficult = truth.area[~truth.crowd], truth.difficult[~truth.crowd]
    inside = {name: (area >= low) & (area < high) for name, (low, high) in SIZES.items()}
    return {name: (int((of & ~difficult).sum()), int((of & difficult).sum())) for name, of in inside.items()}


def _mean(values: np.ndarray) -> float:
    """The mean of what is not NaN; NaN if nothing is there."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
