"""Which object each detection overlaps most, with no more pairs in memory at once than a limit allows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from det_distill.evaluation.columns import Detections, GroundTruth

__all__ = ["PAIRS_AT_ONCE", "best_objects", "overlap_of_rows"]

PAIRS_AT_ONCE = 1 << 16
"""Pairs of a detection and an object that are held together; a pair takes some 250 bytes while it is compared."""


def best_objects(
    detections: Detections, truth: GroundTruth, *, at_once: int = PAIRS_AT_ONCE
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find, per detection, the object of its image and class that it overlaps most (the first of equals).

    What is held beside the columns of both sides is a few numbers a detection and the pairs of one block of
    detections: at most `at_once`, or those of a single detection if these are more.

    Args:
        detections: any order.
        truth: the objects.
        at_once: the limit on pairs.

    Returns:
        (N,) the object's row in `truth` and (N,) the overlap; -1 and 0 where there is no such object.
    """
    candidates = _Candidates.of(detections, truth)
    best = np.full(len(detections), -1, dtype=np.int64)
    best_overlap = np.zeros(len(detections))
    for start, stop in _blocks(candidates.count, at_once):
        detection, candidate = candidates.pairs(start, stop)
        if len(detection) == 0:
            continue
        overlap = overlap_of_rows(detections.box[detection], truth.box[candidate])
        starts = np.flatnonzero(np.diff(detection, prepend=-1))
        largest = np.maximum.reduceat(overlap, starts)
        lengths = np.diff(starts, append=len(detection))
        is_largest = np.flatnonzero(overlap == np.repeat(largest, lengths))
        rows, first = np.unique(detection[is_largest], return_index=True)
        best[rows], best_overlap[rows] = candidate[is_largest[first]], largest
    return best, best_overlap


def overlap_of_rows(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of (P, 4) boxes, row by row; 0 where the union is empty."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    common = np.prod(np.clip(high - low, 0.0, None), axis=1)
    areas = [np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (first, second)]
    union = areas[0] + areas[1] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


@dataclass(frozen=True)
class _Candidates:
    """The objects of each detection's image and class, M objects and N detections.

    Attributes:
        order: (M,) rows of the objects, sorted by image and class, in their own order within.
        begin: (N,) where in `order` the candidates of a detection begin.
        count: (N,) how many these are.
    """

    order: NDArray[np.int64]
    begin: NDArray[np.int64]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, detections: Detections, truth: GroundTruth) -> _Candidates:
        classes = 1 + max(truth.category.max(initial=0), detections.category.max(initial=0))
        wanted = detections.image * classes + detections.category
        present = truth.image * classes + truth.category
        order = np.argsort(present, kind="stable")
        present = present[order]
        begin = np.searchsorted(present, wanted, side="left")
        return cls(order, begin, np.searchsorted(present, wanted, side="right") - begin)

    def pairs(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All pairs of the detections from `start` up to `stop`: (P,) detections, ascending, and (P,) objects."""
        begin, count = self.begin[start:stop], self.count[start:stop]
        detection = np.repeat(np.arange(start, stop), count)
        within = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
        return detection, self.order[np.repeat(begin, count) + within]


def _blocks(count: NDArray[np.int64], at_once: int) -> Iterator[tuple[int, int]]:
    """Cut detections into runs (start, stop) with no more than `at_once` pairs, or of one detection."""
    ends = np.cumsum(count)
    start = 0
    while start < len(count):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + at_once, side="right")))
        yield start, stop
        start = stop
