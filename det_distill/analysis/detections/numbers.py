"""The report's numbers as files for programs: a CSV of AP, a JSON of everything."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .measure import Measured

__all__ = ["summary", "write_csv", "write_json"]


def write_csv(measured: Sequence[Measured], classes: Sequence[str], path: Path) -> Path:
    """Write a line for each detector and class, and one for all classes, with AP in percent by both rules.

    ``objects`` are all but crowds, ``difficult`` those of them that are marked so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = list(measured[0].table)
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["detector", "role", "class", "objects", "difficult", *keys])
        for one in measured:
            role = "teacher" if one.found.source.is_teacher else "student"
            rows = [("", one.all_objects(), one.table)]
            rows += [(name, one.all_objects(i), one.class_table(i)) for i, name in enumerate(classes)]
            for name, (ordinary, difficult), values in rows:
                numbers = ["" if math.isnan(values[key]) else f"{values[key]:.6g}" for key in keys]
                table.writerow([one.name, role, name, ordinary + difficult, difficult, *numbers])
    return path


def write_json(measured: Sequence[Measured], classes: Sequence[str], data: str, path: Path) -> Path:
    """Write `summary`; what is not a number is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(summary(measured, classes, data), indent=1, allow_nan=False), encoding="utf-8")
    return path


def summary(measured: Sequence[Measured], classes: Sequence[str], data: str) -> dict[str, Any]:
    """Return all numbers of the report but the curves; AP and gains in percent."""
    detectors = []
    for one in measured:
        cost, operation = one.found.cost, one.operation()
        detectors.append(
            {
                "name": one.name,
                "role": "teacher" if one.found.source.is_teacher else "student",
                "made_from": one.found.made_from,
                "results": _numbers(one.table),
                "classes": {name: _numbers(one.class_table(i)) for i, name in enumerate(classes)},
                "errors": {
                    kind: {"count": one.errors.counts[kind], "AP50_gained": _number(100 * gain)}
                    for kind, gain in one.errors.gains.items()
                },
                "at_threshold": asdict(operation),
                "cost": None if cost is None else asdict(cost),
            }
        )
    first = measured[0]
    return {
        "data": data,
        "images": len(first.truth.sizes),
        "objects": sum(first.all_objects()),
        "difficult": first.all_objects()[1],
        "threshold": first.threshold,
        "detectors": detectors,
    }


def _numbers(values: dict[str, float]) -> dict[str, float | None]:
    return {key: _number(value) for key, value in values.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
