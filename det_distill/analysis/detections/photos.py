"""The photos on which a student and its teacher differ most, and the boxes to be drawn on them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.data.detection_utils import read_image
from PIL import Image

from ...evaluation.columns import Detections
from ...evaluation.errors import ERRORS, IGNORED, RIGHT, overlaps
from .measure import Measured
from .wording import plural

__all__ = ["Box", "Panel", "detector_panel", "differences", "jpeg_url", "truth_panel"]


@dataclass(frozen=True)
class Box:
    """A box on a photo.

    Attributes:
        x, y, width, height: in pixels of the photo.
        kind: "object", "uncounted", "right", "wrong" or "missed".
        label: what is written at it.
        title: what it is, in a sentence.
    """

    x: float
    y: float
    width: float
    height: float
    kind: str
    label: str
    title: str


@dataclass(frozen=True)
class Panel:
    """A photo with the boxes of one side, and what is written below it."""

    boxes: Sequence[Box]
    caption: str


def differences(teacher: Detections, student: Detections, images: int, threshold: float) -> np.ndarray:
    """Count, for each image, the boxes that only one of two detectors draws.

    Two boxes are the same if they are of one class and overlap by an intersection over union of 0.5 or more; by
    falling score of the teacher's, each has at most one partner. Boxes of a score below `threshold` are not drawn.

    Returns:
        (images,) int64.
    """
    counts = np.zeros(images, dtype=np.int64)
    sides = [_by_image(side, images, np.flatnonzero(side.score >= threshold)) for side in (teacher, student)]
    for image, (first, second) in enumerate(zip(*sides, strict=True)):
        first = first[np.argsort(-teacher.score[first], kind="stable")]
        overlap = overlaps(teacher.box[first], student.box[second])
        overlap[teacher.category[first][:, None] != student.category[second][None]] = 0.0
        partners = 0
        for row in range(len(first)):
            if len(second) and overlap[row].max() >= 0.5:
                overlap[:, overlap[row].argmax()] = 0.0
                partners += 1
        counts[image] = len(first) + len(second) - 2 * partners
    return counts


def _by_image(detections: Detections, images: int, rows: np.ndarray) -> list[np.ndarray]:
    rows = rows[np.argsort(detections.image[rows], kind="stable")]
    return np.split(rows, np.searchsorted(detections.image[rows], np.arange(1, images)))[:images]


def truth_panel(measured: Measured, image: int, classes: Sequence[str]) -> Panel:
    """The objects on an image."""
    truth, counted = measured.truth, measured.errors.counted
    boxes = []
    for row in np.flatnonzero(truth.image == image):
        name = classes[truth.category[row]]
        title = f"{name}: an object" if counted[row] else f"{name}: an object that does not count"
        boxes.append(_box(truth.box[row], "object" if counted[row] else "uncounted", name, title))
    ignored = sum(box.kind == "uncounted" for box in boxes)
    caption = plural(len(boxes) - ignored, "object") + (f", {ignored} not counted" if ignored else "")
    return Panel(boxes, caption)


def detector_panel(measured: Measured, image: int, classes: Sequence[str]) -> Panel:
    """The boxes of a detector on an image from the threshold on, and the objects that none of them finds."""
    truth, detections, errors = measured.truth, measured.found.detections, measured.errors
    boxes, found = [], set()
    for row in np.flatnonzero((detections.image == image) & (detections.score >= measured.threshold)):
        kind, name = str(errors.kind[row]), classes[detections.category[row]]
        drawn = kind if kind == RIGHT else "uncounted" if kind == IGNORED else "wrong"
        why = {RIGHT: "right", IGNORED: "does not count"}.get(kind) or f"{kind}: {ERRORS[kind]}"
        title = f"{name}, score {detections.score[row]:.2f}: {why}"
        boxes.append(_box(detections.box[row], drawn, name, title))
        found.add(int(row))
    missed = [
        row
        for row in np.flatnonzero((truth.image == image) & errors.counted)
        if int(errors.found[row]) not in found
    ]
    for row in missed:
        name = classes[truth.category[row]]
        boxes.append(_box(truth.box[row], "missed", name, f"{name}: not found"))
    right, wrong = (sum(box.kind == kind for box in boxes) for kind in ("right", "wrong"))
    return Panel(boxes, f"{right} found, {len(missed)} missed, {wrong} wrong")


def _box(corners: np.ndarray, kind: str, label: str, title: str) -> Box:
    x0, y0, x1, y1 = (float(value) for value in corners)
    return Box(x0, y0, max(0.0, x1 - x0), max(0.0, y1 - y0), kind, label, title)


def jpeg_url(record: Mapping[str, Any], side: int = 560, quality: int = 78) -> str:
    """Return a photo as a ``data:`` URL, a JPEG of at most `side` pixels.

    Args:
        record: a dataset dict; the file is turned as its EXIF data say.
        side: of the longer side; smaller photos stay as they are.
        quality: of the JPEG.
    """
    photo = Image.fromarray(read_image(record["file_name"], format="RGB"))
    photo.thumbnail((side, side))
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
