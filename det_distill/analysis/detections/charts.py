"""The geometry of the report's drawings; the page's templates draw it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .measure import Measured
from .wording import plural

__all__ = ["Curve", "CurvePanel", "Scatter", "ScatterPoint", "curve_panel", "scatter", "ticks"]


@dataclass(frozen=True)
class Curve:
    """A detector's line in a panel.

    Attributes:
        detector: its number.
        points: of an SVG polyline; "" where there is nothing to draw.
        at: where the threshold puts it, (x, y); None without boxes or objects.
        ap: AP in percent.
        text: what is found at the threshold.
    """

    detector: int
    points: str
    at: tuple[float, float] | None
    ap: float
    text: str


@dataclass(frozen=True)
class CurvePanel:
    """Precision over recall of all detectors for one class, or of the mean of the classes (category None)."""

    category: int | None
    title: str
    objects: str
    curves: Sequence[Curve]
    gap: float


PANEL = {"left": 42.0, "top": 8.0, "width": 248.0, "height": 190.0}
"""Where the axes of a curve's panel lie."""


def curve_panel(measured: Sequence[Measured], category: int | None, title: str) -> CurvePanel:
    """Lay out the curves of a class; `gap` is how far in AP the worst student is below the first teacher."""
    curves = []
    for number, one in enumerate(measured):
        values = one.curve(category)
        operation = one.operation(category)
        there = not np.isnan(values[0])
        at = None
        if category is not None and there and not math.isnan(operation.precision):
            at = _place(operation.recall, operation.precision)
        text = f"{operation.found} found, {operation.missed} missed, {operation.wrong} wrong"
        curves.append(Curve(number, _polyline(values) if there else "", at, 100 * float(values.mean()), text))
    teacher, students = (
        curves[0].ap,
        [c.ap for c in curves if not measured[c.detector].found.source.is_teacher],
    )
    gap = max((teacher - ap for ap in students), default=0.0)
    return CurvePanel(
        category, title, _objects(measured[0], category), curves, -math.inf if math.isnan(gap) else gap
    )


def _objects(one: Measured, category: int | None) -> str:
    """How many objects a curve is about, and how many it leaves out for being marked difficult."""
    counted = int(one.errors.counted.sum()) if category is None else one.objects(category)
    left = sum(one.all_objects(category)) - counted
    return plural(counted, "object") + (f", without {left:,} difficult" if left else "")


def _place(recall: float, precision: float) -> tuple[float, float]:
    x = PANEL["left"] + recall * PANEL["width"]
    return round(x, 1), round(PANEL["top"] + (1 - precision) * PANEL["height"], 1)


def _polyline(values: np.ndarray) -> str:
    """The (101,) precisions; where it stays the same only the ends are written."""
    keep = [
        i for i in range(len(values)) if i in (0, 100) or not (values[i - 1] == values[i] == values[i + 1])
    ]
    return " ".join("{:g},{:g}".format(*_place(i / 100, float(values[i]))) for i in keep)


@dataclass(frozen=True)
class ScatterPoint:
    """A detector: the middle and the radius of its disc, and where its name stands."""

    detector: int
    x: float
    y: float
    radius: float
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True)
class Scatter:
    """AP over speed; axes as (position, text)."""

    points: Sequence[ScatterPoint]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


SCATTER = {"left": 48.0, "top": 22.0, "width": 350.0, "height": 236.0}
"""Where the axes of the scatter lie."""


def scatter(measured: Sequence[Measured]) -> Scatter | None:
    """Lay out AP (COCO) over images a second, the area of a disc being the number of parameters; None: no costs."""
    known = [
        (number, one.found.cost, one.table["coco/AP"])
        for number, one in enumerate(measured)
        if one.found.cost is not None and not math.isnan(one.table["coco/AP"])
    ]
    if not known:
        return None
    x_ticks = ticks(max(cost.images_per_second for _, cost, _ in known))
    y_ticks = ticks(max(ap for _, _, ap in known))
    largest = max(cost.parameters for _, cost, _ in known)
    points = []
    for number, cost, ap in known:
        x = SCATTER["left"] + cost.images_per_second / x_ticks[-1] * SCATTER["width"]
        y = SCATTER["top"] + (1 - ap / y_ticks[-1]) * SCATTER["height"]
        radius = max(5.0, 26.0 * math.sqrt(cost.parameters / max(1, largest)))
        right = x > SCATTER["left"] + 0.6 * SCATTER["width"]
        label_x = x - radius - 6 if right else x + radius + 6
        points.append(ScatterPoint(number, x, y, radius, label_x, y + 4.5, "end" if right else "start"))
    return Scatter(
        _apart(points),
        [(SCATTER["left"] + t / x_ticks[-1] * SCATTER["width"], f"{t:g}") for t in x_ticks],
        [(SCATTER["top"] + (1 - t / y_ticks[-1]) * SCATTER["height"], f"{t:g}") for t in y_ticks],
    )


def _apart(points: Sequence[ScatterPoint], least: float = 16.0) -> list[ScatterPoint]:
    """Move names down so that those of one side do not lie on each other."""
    moved: list[ScatterPoint] = []
    for point in sorted(points, key=lambda p: p.label_y):
        above = [
            p.label_y for p in moved if p.anchor == point.anchor and abs(p.label_x - point.label_x) < 150
        ]
        lowest = max([point.label_y, *(y + least for y in above if y + least > point.label_y)])
        moved.append(
            ScatterPoint(point.detector, point.x, point.y, point.radius, point.label_x, lowest, point.anchor)
        )
    return sorted(moved, key=lambda p: -p.radius)


def ticks(highest: float, about: int = 5) -> list[float]:
    """Return round numbers from 0 to the first that is not below `highest`, some `about` of them."""
    if not highest > 0 or not math.isfinite(highest):
        return [0.0, 1.0]
    rough = highest / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    count = math.ceil(highest / step - 1e-9)
    return [round(step * i, 10) for i in range(count + 1)]
