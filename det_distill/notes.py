"""What a file of weights says of its network beside the tensors: which form each entry must have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["wrong_entry"]

_ASPECTS = 4  # stride, padding, dilation, groups, see convolutions_of


def wrong_entry(note: Mapping[Any, Any]) -> str:
    """Return what is wrong with a note of `handover.describe`; "": nothing. Entries of other names are not looked at.

    Args:
        note: from a file, so of whatever content.
    """
    for key, (fits, form) in _FORMS.items():
        if key in note and not fits(note[key]):
            return f"{key!r} must be {form}, not {_shortened(note[key])}"
    return ""


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_text, value))


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_number, value))


def _moves(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _text(path)
        and isinstance(aspects, (list, tuple))
        and len(aspects) == _ASPECTS
        and all(map(_move, aspects))
        for path, aspects in value.items()
    )


def _move(aspect: Any) -> bool:
    return _text(aspect) or _number(aspect) or _numbers(aspect)


_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "architecture": (_text, "a text"),
    "part": (_text, "a text"),
    "classes": (_texts, "a list of names"),
    "input_format": (_text, 'a text such as "RGB"'),
    "pixel_mean": (_numbers, "a list of finite numbers, one per channel"),
    "pixel_std": (_numbers, "a list of finite numbers, one per channel"),
    "convolutions": (
        _moves,
        "a table of stride, padding, dilation and groups by the path of each convolution",
    ),
}


def _shortened(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # a whole number of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
