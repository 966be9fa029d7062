"""What a detector does wrong, and what each kind of error costs.

Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, sections 2.1 and 2.2,
and the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .columns import Detections, GroundTruth

__all__ = ["ERRORS", "IGNORED", "RIGHT", "ErrorBreakdown", "error_breakdown", "overlaps", "precision_curve"]

ERRORS: Mapping[str, str] = {
    "classification": "in the right place, but called by another class",
    "localisation": "the right class, but the box fits badly",
    "both": "the wrong class, and the box fits badly",
    "duplicate": "an object that a surer box has found already",
    "background": "where there is no object",
    "missed": "an object that no box of the kinds above is about",
}
"""Every kind of error and what it means, in the order of TIDE's figures."""

RIGHT, IGNORED = "right", "ignored"
"""What a detection is called that is no error: it finds an object, or lies on one that does not count."""

_CODES = {name: code for code, name in enumerate((*ERRORS, RIGHT, IGNORED))}
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class ErrorBreakdown:
    """The errors of a detector on a dataset of G objects, of N detections.

    Attributes:
        precision: AP as a fraction of 1 at the overlap `foreground`, by COCO's 101 recalls; NaN without objects.
        counts: kind -> how many.
        gains: kind -> what AP gains if this kind alone is mended, as a fraction of 1. The gains do not add up: errors
            hide each other.
        kind: (N,) str, of each detection: "right", "ignored" or one of `ERRORS` other than "missed".
        found: (G,) int64, of each object the row of the detection that finds it, else -1.
        missed: (G,) bool.
        counted: (G,) bool: objects that are to be found, neither crowd nor (by default) difficult.
    """

    precision: float
    counts: Mapping[str, int]
    gains: Mapping[str, float]
    kind: np.ndarray
    found: np.ndarray
    missed: np.ndarray
    counted: np.ndarray


def error_breakdown(
    detections: Detections,
    truth: GroundTruth,
    num_classes: int,
    *,
    foreground: float = 0.5,
    background: float = 0.1,
    max_detections: int = 100,
    count_difficult: bool = False,
) -> ErrorBreakdown:
    """Name the error of every detection that is wrong, and of every object that is missed.

    Of an image's detections the `max_detections` of highest score are looked at; the others are ignored. By falling
    score, each takes the free object of its class that it overlaps most, if by `foreground` or more: it is right. One
    that takes none is ignored if it lies on an object that does not count (a difficult one: overlap; a crowd: the part
    of the detection that is within). Else it is the first of these that fits:

    * localisation: its best overlap with an object of its class is from `background` to `foreground`, both included;
    * classification: its best overlap with an object of another class is `foreground` or more;
    * duplicate: it overlaps a taken object of its class by `foreground` or more;
    * background: it overlaps no object by more than `background`;
    * both: all that is left.

    An object is missed if no detection takes it and no localisation or classification error is about it.

    Mended are localisation and classification errors by making the surest of those about a free object right, and
    taking the others away; duplicate, background and both by taking them away; missed objects by not counting them, so
    that a class of nothing but missed objects leaves the mean, unless it has detections, which then are all wrong.
    Two things differ from the authors' code: an ignored detection is never an error, and a class without objects has
    no part in the mean, as in COCO's AP.

    Args:
        detections: any order; equal scores are taken in the order of the images, within one in the given order.
        truth: the objects.
        num_classes: C; class ids are 0 to C - 1.
        foreground: the overlap from which a box fits.
        background: the overlap up to which a box is about nothing.
        max_detections: of each image.
        count_difficult: take difficult objects for ordinary ones.

    Raises:
        ValueError: not 0 <= background < foreground <= 1.
    """
    if not 0 <= background < foreground <= 1:
        raise ValueError(
            f"error_breakdown needs 0 <= background < foreground <= 1, not {background:g} and {foreground:g}"
        )
    counted = ~truth.crowd if count_difficult else ~(truth.crowd | truth.difficult)
    state = _State(detections, truth, counted, foreground, background)
    order = np.lexsort((-detections.score, detections.image))  # stable: ties stay in the given order
    images = len(truth.sizes)
    starts = np.searchsorted(detections.image[order], np.arange(images + 1))
    by_image = np.argsort(truth.image, kind="stable")
    objects = np.searchsorted(truth.image[by_image], np.arange(images + 1))
    for image in range(images):
        rows = order[starts[image] : starts[image + 1]][:max_detections]
        state.judge(rows, by_image[objects[image] : objects[image + 1]])
    return _summary(state, num_classes)


class _State:
    """What is known of each detection and object so far."""

    def __init__(
        self, detections: Detections, truth: GroundTruth, counted: np.ndarray, high: float, low: float
    ) -> None:
        self.detections, self.truth, self.counted = detections, truth, counted
        self.high, self.low = high, low
        self.kind = np.full(len(detections), _CODES[IGNORED])
        self.about = np.full(len(detections), -1)  # the object of a localisation or classification error
        self.found = np.full(len(truth.image), -1)

    def judge(self, rows: np.ndarray, objects: np.ndarray) -> None:
        """One image: its detections by falling score, and its objects."""
        own = objects[self.counted[objects]]
        overlap = overlaps(self.detections.box[rows], self.truth.box[own])
        same = self.detections.category[rows][:, None] == self.truth.category[own][None]
        self._match(rows, own, np.where(same, overlap, 0.0))
        wrong = np.flatnonzero(~np.isin(rows, self.found[own]) & ~self._on_ignored(rows, objects))
        self.kind[rows[wrong]] = _CODES["background"]
        if not len(own):
            return
        taken = self.found[own] >= 0
        for row in wrong:
            kind, place = self._name(overlap[row], same[row], taken)
            self.kind[rows[row]] = _CODES[kind]
            self.about[rows[row]] = own[place] if place >= 0 else -1

    def _match(self, rows: np.ndarray, own: np.ndarray, overlap: np.ndarray) -> None:
        """Give each detection the free object of its class that it overlaps most; overlap: (D, G), classes equal."""
        for index in np.flatnonzero((overlap >= self.high).any(axis=1)):
            best = int(overlap[index].argmax())
            if overlap[index, best] >= self.high:
                self.found[own[best]] = rows[index]
                self.kind[rows[index]] = _CODES[RIGHT]
                overlap[:, best] = 0.0

    def _on_ignored(self, rows: np.ndarray, objects: np.ndarray) -> np.ndarray:
        """(D,) bool: whether a detection lies on an object of its class that does not count."""
        others = objects[~self.counted[objects]]
        boxes = self.detections.box[rows]
        crowd = self.truth.crowd[others]
        overlap = overlaps(boxes, self.truth.box[others])
        overlap[:, crowd] = overlaps(boxes, self.truth.box[others[crowd]], of_first=True)
        same = self.detections.category[rows][:, None] == self.truth.category[others][None]
        return ((overlap >= self.high) & same).any(axis=1)

    def _name(self, overlap: np.ndarray, same: np.ndarray, taken: np.ndarray) -> tuple[str, int]:
        """The error of a detection from its (G,) overlaps, and the place of the object that it is about, or -1."""
        own, other = np.where(same, overlap, 0.0), np.where(same, 0.0, overlap)
        if self.low <= own.max() <= self.high and own.max() > 0:
            return "localisation", int(own.argmax())
        if other.max() >= self.high:
            return "classification", int(other.argmax())
        if (own * taken).max() >= self.high:
            return "duplicate", -1
        return ("background" if overlap.max() <= self.low else "both"), -1


def _summary(state: _State, num_classes: int) -> ErrorBreakdown:
    """Count the errors, and mend one kind after the other."""
    detections, truth = state.detections, state.truth
    free = state.counted & (state.found < 0)
    aimed = np.zeros(len(truth.image), dtype=bool)
    aimed[state.about[state.about >= 0]] = True
    missed = free & ~aimed
    surest = _surest(detections.score, state.about, free)
    right = state.kind == _CODES[RIGHT]
    objects = np.bincount(truth.category[state.counted], minlength=num_classes)
    looked = state.kind != _CODES[IGNORED]
    order = np.lexsort((detections.image, -detections.score))  # ties by image, as COCO's
    base = _mean_precision(order, detections.category, right, looked, objects, objects > 0)
    counts, gains = {}, {}
    for name in ERRORS:
        category, kept, left = detections.category.copy(), looked.copy(), objects
        mended = state.kind == _CODES[name]
        if name == "missed":
            left = objects - np.bincount(truth.category[missed], minlength=num_classes)
        kept[mended & ~surest] = False
        category[mended & surest] = truth.category[state.about[mended & surest]]
        now = _mean_precision(order, category, right | (mended & surest), kept, left, objects > 0)
        counts[name] = int(missed.sum() if name == "missed" else mended.sum())
        gains[name] = now - base
    kind = np.array(list(_CODES))[state.kind]
    return ErrorBreakdown(base, counts, gains, kind, state.found, missed, state.counted)


def _surest(score: np.ndarray, about: np.ndarray, free: np.ndarray) -> np.ndarray:
    """(N,) bool: of the detections about one free object the one of highest score."""
    rows = np.flatnonzero(about >= 0)
    rows = rows[free[about[rows]]]
    rows = rows[np.argsort(-score[rows], kind="stable")]
    _, first = np.unique(about[rows], return_index=True)
    chosen = np.zeros(len(score), dtype=bool)
    chosen[rows[first]] = True
    return chosen


def _mean_precision(
    order: np.ndarray,
    category: np.ndarray,
    right: np.ndarray,
    kept: np.ndarray,
    objects: np.ndarray,
    classes: np.ndarray,
) -> float:
    """Mean AP of the classes.

    Args:
        order: (N,) the detections by falling score.
        category, right, kept: (N,) of the detections as they are given.
        objects: (C,) how many are to be found.
        classes: (C,) bool, whose AP are averaged.
    """
    order = order[kept[order]]
    values = []
    for index in np.flatnonzero(classes):
        chosen = right[order[category[order] == index]]
        if objects[index]:
            values.append(precision_curve(chosen, int(objects[index])).mean())
        elif len(chosen):
            values.append(0.0)
    return float(np.mean(values)) if values else float("nan")


def precision_curve(right: np.ndarray, objects: int) -> np.ndarray:
    """The best precision at recall 0, 0.01, ..., 1 or above, 0 where none is reached; its mean is COCO's AP.

    Args:
        right: (N,) bool, of the detections of one class by falling score.
        objects: how many are to be found, above 0.

    Returns:
        (101,).
    """
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return envelope[np.searchsorted(found / objects, _RECALLS)]


def overlaps(first: np.ndarray, second: np.ndarray, *, of_first: bool = False) -> np.ndarray:
    """Intersection over union of all (D, 4) with all (G, 4) boxes, as (D, G); 0 where the union is empty.

    Args:
        first: x0, y0, x1, y1.
        second: likewise.
        of_first: divide by the area of the first box instead, as COCO does for crowds.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.clip(high - low, 0.0, None), axis=2)
    own, other = (np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (first, second))
    whole = np.broadcast_to(own[:, None], common.shape) if of_first else own[:, None] + other[None] - common
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
