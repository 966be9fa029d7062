"""Average precision by the rules of the PASCAL VOC devkit.

Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2; the devkits of
2007 (11-point) and 2010 and later (area).

The devkit counts pixels from 1 and a box reaches from its first to its last pixel, so its width is
xmax - xmin + 1.  detectron2's boxes are x0 = xmin - 1, x1 = xmax, so the devkit's overlap *is* the plain
intersection over union of these: nothing is added to a side here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from det_distill.evaluation.columns import Detections, GroundTruth
from det_distill.evaluation.overlaps import best_objects, overlap_of_rows

__all__ = [
    "OVERLAPS",
    "VocPrecision",
    "area_under_envelope",
    "eleven_point_mean",
    "overlap_of_rows",
    "recall_and_precision",
    "voc_average_precision",
]

OVERLAPS = tuple(percent / 100 for percent in range(50, 100, 5))
"""0.50, 0.55, ..., 0.95: the ten overlaps of COCO's AP, which detectron2 takes for VOC data too."""


@dataclass(frozen=True)
class VocPrecision:
    """Average precision per class, as fractions of 1; NaN for a class without an object that counts.

    Attributes:
        area: (C,), or (T, C) for T overlaps: area under the precision envelope, the rule since 2010.
        eleven_point: the same shape: mean envelope at recall 0, 0.1, ..., 1, the rule of 2007.
    """

    area: NDArray[np.float64]
    eleven_point: NDArray[np.float64]


def voc_average_precision(
    detections: Detections,
    truth: GroundTruth,
    num_classes: int,
    *,
    iou: float | Sequence[float] = 0.5,
    count_difficult: bool = False,
) -> VocPrecision:
    """Average precision of every class by VOC rules.

    Per class, detections are taken by descending score (equal scores in the given order).  Each is compared
    with the object of its image and class that it overlaps most.  If that overlap is above `iou` (strictly):
    the detection is ignored if the object is difficult (or a COCO crowd, which VOC does not know), right if
    it is the first on this object, wrong if it is a later one.  Otherwise it is wrong.  Recall is divided by
    the number of objects that are neither difficult nor crowd.

    Overlaps are computed once, whatever the number of thresholds; memory grows with the number of detections
    plus that of objects, not with that of their pairs (`best_objects`).

    Args:
        detections: any order.
        truth: the objects.
        num_classes: C; class ids are 0 to C - 1.
        iou: the overlap that a detection must exceed, or T of them (`OVERLAPS`).
        count_difficult: difficult objects are ordinary ones, as in some papers.

    Returns:
        (C,) arrays for one overlap, (T, C) for a sequence; 0 for a class with objects and no detection.
    """
    order = np.lexsort((-detections.score, detections.category))
    detections = _sorted(detections, order)
    best, overlap = best_objects(detections, truth)
    ignored = truth.crowd if count_difficult else truth.crowd | truth.difficult
    objects = np.bincount(truth.category[~ignored], minlength=num_classes)
    bounds = np.searchsorted(detections.category, np.arange(num_classes + 1))
    thresholds = np.atleast_1d(np.asarray(iou, dtype=np.float64))
    area, eleven = (np.full((len(thresholds), num_classes), np.nan) for _ in range(2))
    for row, threshold in enumerate(thresholds):
        right, counted = _judge(best, overlap > threshold, ignored)
        for index in np.flatnonzero(objects):
            of_class = slice(bounds[index], bounds[index + 1])
            judged = right[of_class][counted[of_class]]
            recall, precision = recall_and_precision(judged, int(objects[index]))
            area[row, index] = area_under_envelope(recall, precision)
            eleven[row, index] = eleven_point_mean(recall, precision)
    shape = (*np.shape(iou), num_classes)
    return VocPrecision(area.reshape(shape), eleven.reshape(shape))


def recall_and_precision(
    right: NDArray[np.bool_], objects: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision after each detection.

    Args:
        right: (N,) bool, by descending score.
        objects: the number of objects to be found, above 0.

    Returns:
        (N,) recall, divided by `objects`; (N,) precision, divided by the detections so far.
    """
    found = np.cumsum(right, dtype=np.float64)
    return found / objects, found / np.arange(1, len(right) + 1)


def area_under_envelope(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """The area under max precision at equal or higher recall, over recall 0 to 1 (VOC 2010 and later).

    Args:
        recall: (N,) ascending.
        precision: (N,).
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def eleven_point_mean(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """The mean over r = 0, 0.1, ..., 1 of the best precision at recall >= r, 0 if there is none (VOC 2007).

    Args:
        recall: (N,) ascending.
        precision: (N,).
    """
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    # np.arange, not k / 10: k * 0.1 is one bit above k / 10 at three points, and recall may be just k / 10.
    return float(np.mean(envelope[np.searchsorted(recall, np.arange(0.0, 1.1, 0.1))]))


def _sorted(detections: Detections, order: NDArray[np.int64]) -> Detections:
    return Detections(
        detections.image[order], detections.category[order], detections.box[order], detections.score[order]
    )


def _judge(
    best: NDArray[np.int64], hit: NDArray[np.bool_], ignored: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections (by descending score) are right, and which count at all: two (N,) bool arrays.

    Args:
        best: (N,) the object that each overlaps most.
        hit: (N,) whether it overlaps that by enough.
        ignored: per object, whether VOC rules pass over it.
    """
    counted = np.ones(len(best), dtype=bool)
    counted[hit] = ~ignored[best[hit]]
    right = np.zeros(len(best), dtype=bool)
    rows = np.flatnonzero(hit & counted)
    _, first = np.unique(best[rows], return_index=True)
    right[rows[first]] = True
    return right, counted
