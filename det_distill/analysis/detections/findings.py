"""What the report says in words: a sentence on each student."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...evaluation.cost import ModelCost
from .measure import Measured
from .wording import number, signed

__all__ = ["findings"]


def findings(measured: Sequence[Measured]) -> list[str]:
    """Return, for each student, how much of the first teacher's AP it has, at what cost, and what costs it most."""
    teacher = measured[0]
    return [_finding(one, teacher) for one in measured if not one.found.source.is_teacher]


def _finding(student: Measured, teacher: Measured) -> str:
    ap, whole = (one.table["coco/AP"] for one in (student, teacher))
    first = f"{student.name} has {number(ap)} AP (COCO rules) where {teacher.name} has {number(whole)}"
    if whole > 0 and not math.isnan(ap):
        first = f"{student.name} reaches {ap / whole:.0%} of {teacher.name}'s AP"
        first += f" ({number(ap)} of {number(whole)}, COCO rules)"
    if student.found.cost is not None and teacher.found.cost is not None:
        first += _cost(student.found.cost, teacher.found.cost)
    gains = student.errors.gains
    most = max(gains, key=lambda kind: gains[kind])
    if not gains[most] > 0:
        return f"{first}."
    what = "missed objects" if most == "missed" else f"{most} errors"
    own, other = (signed(100 * one.errors.gains[most]) for one in (student, teacher))
    return f"{first}. Most AP50 is lost to {what}: {own} if they were mended ({teacher.name}: {other})."


def _cost(student: ModelCost, teacher: ModelCost) -> str:
    """How it compares in size and speed: ``, with 14 times fewer parameters, at 3.2 times the speed``."""
    fewer = teacher.parameters / max(1, student.parameters)
    size = f"{fewer:.2g} times fewer" if fewer >= 1 else f"{1 / fewer:.2g} times as many"
    speed = student.images_per_second / teacher.images_per_second
    return f", with {size} parameters, at {speed:.2g} times the speed"
