"""How the report writes numbers."""

from __future__ import annotations

import math

__all__ = ["number", "plural", "signed"]

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
