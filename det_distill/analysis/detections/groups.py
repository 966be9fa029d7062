"""The parts of the report's page that are bars, and its small sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...evaluation.errors import ERRORS
from .measure import Measured, objects_by_size
from .wording import number, objects, plural, signed

__all__ = ["cost_note", "error_groups", "facts", "no_cost", "size_groups"]

_SIZE_NAMES = {"s": "Small", "m": "Medium", "l": "Large"}


def facts(first: Measured, classes: int) -> str:
    """Return how many images, objects and classes there are."""
    images, there = plural(len(first.truth.sizes), "image"), objects(*first.all_objects())
    crowds = int(first.truth.crowd.sum())
    also = f"; {plural(crowds, 'object')} more, marked as crowds, not counted" if crowds else ""
    return f"{images}, {there} of {plural(classes, 'class', 'es')}{also}"


def size_groups(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the bars of AP by size of the objects."""
    groups = []
    for size, counts in objects_by_size(measured[0].truth).items():
        values = [m.table[f"coco/AP{size}"] for m in measured]
        bars = [
            {
                "detector": i,
                "width": 0 if math.isnan(value) else round(value, 1),
                "text": number(value),
                "detail": f"{signed(value - values[0])} to the teacher" if i else "",
            }
            for i, value in enumerate(values)
        ]
        groups.append({"name": _SIZE_NAMES[size], "meaning": objects(*counts), "bars": bars})
    return groups


def error_groups(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the bars of the AP50 that mending each kind of error gains."""
    largest = max((g for m in measured for g in m.errors.gains.values() if g > 0), default=1.0)
    groups = []
    for kind, meaning in ERRORS.items():
        noun, ending = ("object", "s") if kind == "missed" else ("box", "es")
        bars = [
            {
                "detector": i,
                "width": round(100 * max(0.0, np.nan_to_num(m.errors.gains[kind])) / largest, 1),
                "text": signed(100 * m.errors.gains[kind]),
                "detail": plural(m.errors.counts[kind], noun, ending),
            }
            for i, m in enumerate(measured)
        ]
        groups.append({"name": kind.capitalize(), "meaning": meaning, "bars": bars})
    return groups


def cost_note(measured: Sequence[Measured]) -> str:
    """Return how speed was measured."""
    costs = [m.found.cost for m in measured if m.found.cost is not None]
    if not costs:
        return ""
    devices = ", ".join(dict.fromkeys(c.device for c in costs))
    sizes = ", ".join(dict.fromkeys(f"{c.width} by {c.height}" for c in costs))
    threads = costs[0].threads
    where = f"{devices} ({plural(threads, 'thread')})" if devices == "cpu" else devices
    what = f"One image at a time of {sizes} pixels, on {where}, one detector after the other"
    return f"{what}: speeds are worth as much as the machine was idle. 1 GFLOP is 1e9 multiply-adds."


def no_cost(measured: Sequence[Measured]) -> str:
    """Return why no speed was measured."""
    if all(m.found.source.file for m in measured):
        return "all detections come from files, and there is no network to time"
    return "speed and size were not asked for"
