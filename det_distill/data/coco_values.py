"""Which values the entries of a COCO instances file may have, beyond their ids and boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["wrong_value"]


def wrong_value(entry: Mapping[str, Any]) -> str:
    """Return what is wrong with the values of a category, an image or an annotation; "": nothing.

    null is as good as no value, but for names.
    """
    for key, (fits, form) in _FORMS.items():
        if key in entry and not fits(entry[key]):
            text = str(entry[key])
            return f"{key} must be {form}, not {text[:40]}{'...' if len(text) > 40 else ''}"
    return ""


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def _flag(value: Any) -> bool:
    return value is None or (isinstance(value, int) and value in (0, 1))


def _area(value: Any) -> bool:
    return value is None or (_number(value) and value >= 0)


def _keypoints(value: Any) -> bool:
    return value is None or (_numbers(value) and len(value) % 3 == 0)


def _outline(value: Any) -> bool:
    if isinstance(value, dict):
        return not value or _run_lengths(value)
    return value is None or (isinstance(value, list) and all(map(_numbers, value)))


def _run_lengths(value: dict[str, Any]) -> bool:
    size, counts = value.get("size"), value.get("counts")
    if not (
        isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and 0 < n < 2**31 for n in size)
    ):
        return False
    whole = isinstance(counts, list) and all(isinstance(n, int) and 0 <= n < 2**32 for n in counts)
    return isinstance(counts, str) or whole


_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_text, "a text"),
    "file_name": (_text, "a text"),
    "iscrowd": (_flag, "0 or 1"),
    "area": (_area, "a number, not negative"),
    "segmentation": (
        _outline,
        "a list of polygons, each a list of numbers, or run lengths with size and counts",
    ),
    "keypoints": (_keypoints, "a list of numbers, three per point"),
}
