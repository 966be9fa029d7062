"""Average precision by the rules of the PASCAL VOC devkit.

Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010, section 4.2; the devkits of
2007 (11-point) and 2010 and later (area).

The devkit counts pixels from 1 and a box reaches from its first to its last pixel, so its width is
xmax - xmin + 1.  detectron2's boxes are x0 = xmin - 1, x1 = xmax, so the devkit's overlap *is* the plain
intersection over union of these: nothing is added to a side here.
"""

from dataclasses import dataclass

import numpy as np

from det_distill.evaluation.columns import Detections, GroundTruth


@dataclass(frozen=True)
class VocPrecision:
    """Average precision per class, as fractions of 1; NaN for a class without an object that counts.

    Attributes:
        area: (C,) area under the precision envelope, the rule since 2010.
        eleven_point: (C,) mean envelope at recall 0, 0.1, ..., 1, the rule of 2007.
    """

    area: np.ndarray
    eleven_point: np.ndarray


def voc_average_precision(
    detections: Detections, truth: GroundTruth, num_classes: int, *, iou: float = 0.5
) -> VocPrecision:
    """Average precision of every class by VOC rules.

    Per class, detections are taken by descending score (equal scores in the given order).  Each is compared
    with the object of its image and class that it overlaps most.  If that overlap is above `iou` (strictly):
    the detection is ignored if the object is difficult (or a COCO crowd, which VOC does not know), right if
    it is the first on this object, wrong if it is a later one.  Otherwise it is wrong.  Recall is divided by
    the number of objects that are neither difficult nor crowd.

    Args:
        detections: any order.
        truth: the objects.
        num_classes: C; class ids are 0 to C - 1.
        iou: the overlap that a detection must exceed.

    Returns:
        Two (C,) arrays; 0 for a class with objects and no detection.
    """
    order = np.argsort(-detections.score, kind="stable")
    category = detections.category[order]
    ignored = truth.difficult | truth.crowd
    right, counted = _match(_sorted(detections, order), truth, ignored, iou)
    objects = np.bincount(truth.category[~ignored], minlength=num_classes)
    area, eleven = np.full(num_classes, np.nan), np.full(num_classes, np.nan)
    for index in np.flatnonzero(objects):
        chosen = (category == index) & counted
        recall, precision = recall_and_precision(right[chosen], int(objects[index]))
        area[index] = area_under_envelope(recall, precision)
        eleven[index] = eleven_point_mean(recall, precision)
    return VocPrecision(area, eleven)


def recall_and_precision(right: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision after each detection.

    Args:
        right: (N,) bool, by descending score.
        objects: the number of objects to be found, above 0.

    Returns:
        (N,) recall, divided by `objects`; (N,) precision, divided by the detections so far.
    """
    found = np.cumsum(right, dtype=np.float64)
    return found / objects, found / np.arange(1, len(right) + 1)


def area_under_envelope(recall: np.ndarray, precision: np.ndarray) -> float:
    """The area under max precision at equal or higher recall, over recall 0 to 1 (VOC 2010 and later).

    Args:
        recall: (N,) ascending.
        precision: (N,).
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def eleven_point_mean(recall: np.ndarray, precision: np.ndarray) -> float:
    """The mean over r = 0, 0.1, ..., 1 of the best precision at recall >= r, 0 if there is none (VOC 2007).

    Args:
        recall: (N,) ascending.
        precision: (N,).
    """
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    # np.arange, not k / 10: k * 0.1 is one bit above k / 10 at three points, and recall may be just k / 10.
    return float(np.mean(envelope[np.searchsorted(recall, np.arange(0.0, 1.1, 0.1))]))


def _sorted(detections: Detections, order: np.ndarray) -> Detections:
    return Detections(
        detections.image[order], detections.category[order], detections.box[order], detections.score[order]
    )


def _match(
    detections: Detections, truth: GroundTruth, ignored: np.ndarray, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections (by descending score) are right, and which count at all: two (N,) bool arrays."""
    best, overlap = _best_objects(detections, truth)
    hit = overlap > iou
    counted = np.ones(len(detections), dtype=bool)
    counted[hit] = ~ignored[best[hit]]
    right = np.zeros(len(detections), dtype=bool)
    rows = np.flatnonzero(hit & counted)
    _, first = np.unique(best[rows], return_index=True)
    right[rows[first]] = True
    return right, counted


def _best_objects(detections: Detections, truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """Per detection, the object of its image and class that it overlaps most (the first of equals).

    Returns:
        (N,) the object's row in `truth` and (N,) the overlap; -1 and 0 where there is no such object.
    """
    detection, candidate = _pairs(detections, truth)
    overlap = overlap_of_rows(detections.box[detection], truth.box[candidate])
    best = np.full(len(detections), -1, dtype=np.int64)
    best_overlap = np.zeros(len(detections))
    if len(detection):
        starts = np.flatnonzero(np.diff(detection, prepend=-1))
        largest = np.maximum.reduceat(overlap, starts)
        lengths = np.diff(starts, append=len(detection))
        is_largest = np.flatnonzero(overlap == np.repeat(largest, lengths))
        rows, first = np.unique(detection[is_largest], return_index=True)
        best[rows], best_overlap[rows] = candidate[is_largest[first]], largest
    return best, best_overlap


def _pairs(detections: Detections, truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """All (detection, object) pairs of equal image and class, grouped by ascending detection."""
    classes = 1 + max(truth.category.max(initial=0), detections.category.max(initial=0))
    wanted = detections.image * classes + detections.category
    present = truth.image * classes + truth.category
    order = np.argsort(present, kind="stable")
    begin = np.searchsorted(present[order], wanted, side="left")
    count = np.searchsorted(present[order], wanted, side="right") - begin
    detection = np.repeat(np.arange(len(detections)), count)
    within = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    return detection, order[np.repeat(begin, count) + within]


def overlap_of_rows(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of (P, 4) boxes, row by row; 0 where the union is empty."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    common = np.prod(np.clip(high - low, 0.0, None), axis=1)
    areas = [np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (first, second)]
    union = areas[0] + areas[1] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
