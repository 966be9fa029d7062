"""One box of a dataset, checked against its image."""

import math
from collections.abc import Sequence

SLACK = 0.5
"""Pixels by which a box may leave its image before that is reported; rounding in annotation tools."""

Box = tuple[float, float, float, float]


def checked_box(
    box: Sequence[float], width: int, height: int, *, smallest: float = 0.0
) -> tuple[Box | None, str | None]:
    """Clip a box to its image and say what was wrong with it.

    Args:
        box: (x0, y0, x1, y1) in pixels, continuous coordinates: the whole image is (0, 0, width, height).
        width: image width in pixels.
        height: image height in pixels.
        smallest: a box with a side of at most this many pixels (before clipping) is degenerate.

    Returns:
        The clipped box, or None if nothing of it is usable; and the kind of problem (a key of
        `problems.LEFT_OUT`), or None for a good box.  Up to `SLACK` pixels are clipped without a report.
    """
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        return None, "box that is not four finite numbers"
    x0, y0, x1, y1 = box
    if x1 - x0 <= smallest or y1 - y0 <= smallest:
        return None, "degenerate box"
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        return None, "box outside the image"
    moved = max(abs(new - old) for new, old in zip(inside, box, strict=True))
    return inside, "box partly outside the image" if moved > SLACK else None
