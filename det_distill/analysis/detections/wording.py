"""How the report writes numbers."""

from __future__ import annotations

import math

__all__ = ["number", "objects", "parts", "plural", "signed"]

NOTHING = "\N{EN DASH}"


def number(value: float) -> str:
    """Return one decimal; a dash for NaN."""
    return NOTHING if math.isnan(value) else f"{value:.1f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float) -> str:
    """Return a difference: a sign and one decimal; a dash for NaN."""
    if math.isnan(value):
        return NOTHING
    text = f"{value:+.1f}"
    return "\N{PLUS-MINUS SIGN}0.0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def plural(count: int, noun: str, ending: str = "s") -> str:
    """Return ``1 box``, ``2,000 boxes``."""
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def parts(ordinary: int, difficult: int) -> str:
    """Return ``43``, or ``43 + 26 difficult``."""
    return f"{ordinary:,} + {difficult:,} difficult" if difficult else f"{ordinary:,}"


def objects(ordinary: int, difficult: int) -> str:
    """Return ``43 objects``, or ``69 objects (43 + 26 difficult)``."""
    return plural(ordinary + difficult, "object") + (f" ({parts(ordinary, difficult)})" if difficult else "")
