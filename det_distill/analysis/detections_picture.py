"""One picture: photos in rows; in columns the objects that are there and what each detector finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.detection_file import read_rows
from ..evaluation.voc import overlap_of_rows
from .figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Column", "Photo", "draw_detections", "hits", "read_detections"]

_COLOURS = {"object": "#ffd92f", "right": "#00e5ff", "wrong": "#ff3b30"}
_LEGEND = {
    "object": "an object, as drawn by people",
    "right": "found: overlaps such an object by half or more",
    "wrong": "found where there is none, or twice",
}
_INCHES = 3.2


@dataclass(frozen=True)
class Photo:
    """A test photo and the objects on it.

    Attributes:
        pixels: (H, W, 3), RGB, 0 to 255.
        boxes: (G, 4), x0, y0, x1, y1 in pixels.
        classes: (G,), class numbers.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Column:
    """What one detector finds.

    Attributes:
        title: above the column.
        found: one array (D, 6) a photo: x0, y0, x1, y1 in pixels, score, class number.
    """

    title: str
    found: Sequence[NDArray[np.float64]] = field(default_factory=list)


def draw_detections(
    photos: Sequence[Photo],
    columns: Sequence[Column],
    path: str | Path,
    *,
    threshold: float = 0.5,
    class_names: Sequence[str] = (),
) -> Path:
    """Write a PNG: the objects in the first column, the detectors' boxes in the others.

    A box is right if it overlaps an object of its class by an intersection over union of 0.5 or more that no
    box of higher score has claimed; see `hits`. Below each photo stands how many are right, wrong and missed.

    Args:
        photos: rows.
        columns: detectors, each with as many arrays as there are photos.
        path: the file; its folder is made.
        threshold: boxes of a lower score are not drawn and not counted.
        class_names: written at the boxes where there are several classes.

    Raises:
        ValueError: nothing to draw, or a column that does not have one array per photo.
    """
    if not photos or any(len(c.found) != len(photos) for c in columns):
        raise ValueError(
            "draw_detections needs one photo or more, and each column one array of boxes per photo"
        )
    figure, axes = _grid(photos, 1 + len(columns))
    names = list(class_names) if len(class_names) > 1 else []
    for row, photo in enumerate(photos):
        _draw(
            axes[row][0], photo.pixels, [(*b, "object") for b in photo.boxes], _labels(names, photo.classes)
        )
        axes[row][0].set_xlabel(f"{len(photo.boxes)} objects", fontsize=9)
        for column, detector in enumerate(columns, 1):
            found = detector.found[row]
            found = found[found[:, 4] >= threshold]
            right = hits(photo, found)
            boxes = [(*b[:4], "right" if r else "wrong") for b, r in zip(found, right, strict=True)]
            _draw(axes[row][column], photo.pixels, boxes, _labels(names, found[:, 5]))
            missed = len(photo.boxes) - right.sum()
            text = f"{right.sum()} found, {missed} missed, {(~right).sum()} wrong"
            axes[row][column].set_xlabel(text, fontsize=9)
    for axis, title in zip(axes[0], ["ground truth", *(c.title for c in columns)], strict=True):
        axis.set_title(title, fontsize=11, fontweight="bold")
    return _save(figure, Path(path), threshold)


def hits(photo: Photo, found: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each of the boxes `found` (D, 6) whether it is a new object of its class, as (D,).

    In the order of falling scores each box claims the object of its class that it overlaps most. If that one is
    claimed already, or the intersection over union is less than 0.5, the box is wrong. So are VOC's rules, but that
    they want more than 0.5 and do not count objects that are marked as difficult.
    """
    right = np.zeros(len(found), dtype=bool)
    claimed: set[int] = set()
    for i in np.argsort(-found[:, 4], kind="stable"):
        overlap = np.where(
            photo.classes == found[i, 5], overlap_of_rows(found[i : i + 1, :4], photo.boxes), 0.0
        )
        best = int(overlap.argmax()) if len(overlap) else -1
        if best >= 0 and overlap[best] >= 0.5 and best not in claimed:
            claimed.add(best)
            right[i] = True
    return right


def read_detections(file: str | Path, records: Sequence[Mapping[str, Any]]) -> list[NDArray[np.float64]]:
    """Read what `DetectionEvaluator` wrote about some photos.

    Args:
        file: ``coco_instances_results.json``, with class numbers as category ids.
        records: dicts with "image_id".

    Returns:
        For each photo (D, 6): x0, y0, x1, y1 in pixels, score, class number.

    Raises:
        FileNotFoundError: the run was never evaluated.
        ValueError: the file is not JSON, was cut short, or holds something else.
    """
    rows: dict[Any, list[list[float]]] = {record["image_id"]: [] for record in records}
    for item in read_rows(file):
        if item["image_id"] in rows:
            x, y, width, height = item["bbox"]
            rows[item["image_id"]].append([x, y, x + width, y + height, item["score"], item["category_id"]])
    return [np.array(found, dtype=np.float64).reshape(-1, 6) for found in rows.values()]


def _labels(names: Sequence[str], classes: NDArray[Any]) -> list[str]:
    return [names[int(c)] if names else "" for c in classes]


def _grid(photos: Sequence[Photo], columns: int) -> tuple[Figure, Any]:
    heights = [_INCHES * p.pixels.shape[0] / p.pixels.shape[1] + 0.3 for p in photos]
    figure = new_figure(_INCHES * columns, sum(heights) + 0.8)
    return figure, figure.subplots(len(photos), columns, squeeze=False, height_ratios=heights)


def _draw(
    axis: Axes, pixels: NDArray[np.uint8], boxes: Sequence[tuple[Any, ...]], labels: Sequence[str]
) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    axis.imshow(pixels)
    axis.set_xticks([])
    axis.set_yticks([])
    for (x0, y0, x1, y1, kind), label in zip(boxes, labels, strict=True):
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, linewidth=1.5, edgecolor=_COLOURS[kind])
        frame.set_path_effects([withStroke(linewidth=2.6, foreground="black", alpha=0.55)])
        axis.add_patch(frame)
        if label:
            axis.text(
                x0 + 2, y0 + 2, label, fontsize=6, color=_COLOURS[kind], va="top", clip_on=True
            ).set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def _save(figure: Figure, path: Path, threshold: float) -> Path:
    from matplotlib.patches import Patch

    handles = [Patch(fill=False, edgecolor=c, linewidth=2, label=_LEGEND[k]) for k, c in _COLOURS.items()]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        fontsize=9,
        frameon=False,
        title=f"Boxes with a score of {threshold:g} or more",
        title_fontsize=9,
    )
    return save_figure(figure, path)
