"""What `directions` measured, as a table, a CSV and a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .distance import Distance
from .figures import COLOURS, new_figure, save_figure

__all__ = ["Row", "directions_text", "draw_directions", "write_directions"]


class Row(NamedTuple):
    """What was measured of one student at one pair."""

    student: str
    pair: str
    distance: Distance


_COLUMNS = (
    ("squared", "mean squared", ".4g"),
    ("magnitude", "magnitude", ".4g"),
    ("direction", "direction", ".4g"),
    ("magnitude_share", "magnitude share", ".1%"),
    ("direction_share", "direction share", ".1%"),
    ("cosine", "cosine", ".4f"),
    ("norm_ratio", "norm ratio", ".3f"),
    ("rows", "rows", "d"),
)
"""(field of `Distance`, heading, format) in the console's table."""


def directions_text(rows: Sequence[Row]) -> str:
    """Return a table for the console, with what its columns are below."""
    lines = [["pair", "student", *(heading for _, heading, _ in _COLUMNS)]]
    for row in rows:
        values = [format(getattr(row.distance, field), how) for field, _, how in _COLUMNS]
        lines.append([row.pair, row.student, *values])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = [
        "  ".join(
            c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    meaning = (
        "Means over rows (RoIs, images or cells). mean squared = magnitude (|fs| - |ft|)^2 + direction "
        "2 |fs| |ft| (1 - cos); norm ratio: |fs| / |ft|."
    )
    return "\n".join([texts[0].rstrip(), *(text.rstrip() for text in texts[1:]), "", meaning])


def write_directions(rows: Sequence[Row], path: str | Path) -> Path:
    """Write a CSV of a line for each student and pair."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = [field for field, _, _ in _COLUMNS] + ["zero_rows"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["student", "pair", *fields])
        for row in rows:
            values = (getattr(row.distance, field) for field in fields)
            table.writerow(
                [row.student, row.pair, *(f"{v:.6g}" if isinstance(v, float) else v for v in values)]
            )
    return path


def draw_directions(rows: Sequence[Row], path: str | Path) -> Path:
    """Write a PNG: a panel for each pair, a bar for each student, stacked of the two parts of the squared distance."""
    pairs = list(dict.fromkeys(row.pair for row in rows))
    students = list(dict.fromkeys(row.student for row in rows))
    down = -(-len(pairs) // 4)
    across = -(-len(pairs) // down)
    width = max(3.4, 0.7 + len(students) * max(1.1, 0.3 + 0.09 * max(map(len, students))))
    figure = new_figure(max(6.0, width * across), 3.6 * down + 1)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for axis, pair in zip(axes, pairs, strict=False):
        _draw_pair(axis, pair, [row for row in rows if row.pair == pair])
    for axis in axes[len(pairs) :]:
        axis.set_visible(False)
    figure.get_layout_engine().set(hspace=0.08)  # type: ignore[union-attr, call-arg]
    figure.supylabel("mean squared distance", fontsize=10)
    figure.suptitle("Student and teacher: lengths or directions?", fontsize=13, fontweight="bold")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, frameon=False)
    return save_figure(figure, path)


def _draw_pair(axis: Any, pair: str, rows: Sequence[Row]) -> None:
    names = [row.student for row in rows]
    magnitude = [row.distance.magnitude for row in rows]
    direction = [row.distance.direction for row in rows]
    axis.bar(names, magnitude, width=0.6, color=COLOURS[4], label="magnitude: lengths differ")
    axis.bar(
        names, direction, width=0.6, bottom=magnitude, color=COLOURS[0], label="direction: angles differ"
    )
    for number, row in enumerate(rows):
        text = f"{row.distance.direction_share:.0%} direction\ncos {row.distance.cosine:.3f}"
        axis.annotate(
            text, (number, row.distance.squared), (0, 3), textcoords="offset points", ha="center", fontsize=8
        )
    axis.set_ylim(0, 1.22 * max(row.distance.squared for row in rows) or 1.0)
    axis.set_xlim(-0.7, len(rows) - 0.3)
    axis.set_title(pair.replace("=", " =\n"), fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
