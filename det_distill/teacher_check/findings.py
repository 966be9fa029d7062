"""What a check says: one line with a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["TROUBLES", "Finding", "error_text", "summary"]

TROUBLES = (
    ValueError,
    OSError,
    KeyError,
    AssertionError,
    RuntimeError,
    ImportError,
    TypeError,
    AttributeError,
)
"""What detectron2, torch and this package raise for a config or a file that is wrong."""


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        level: "error": the training would end or learn nonsense; "warning": it may be meant so; "ok".
        about: ``teacher lite2``, ``pair ft``, ``data``, ...
        text: what was found.
    """

    level: Literal["ok", "warning", "error"]
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:8} {self.about}: {self.text}"


def error_text(error: BaseException) -> str:
    """Return what an exception says, without the quotes of a KeyError."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return str(text) or type(error).__name__


def summary(findings: Sequence[Finding]) -> str:
    """Return the last line: how many errors and warnings there are, and what that means."""
    errors = sum(f.level == "error" for f in findings)
    warnings = sum(f.level == "warning" for f in findings)
    counts = f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
    if errors:
        return f"{counts}: a training would end at an error, or learn nonsense."
    if warnings:
        return f"{counts}: a training can begin; see that the warnings are meant so."
    return f"{counts}: a training can begin."


def _counted(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
