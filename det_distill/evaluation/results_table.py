"""The results of several models as tables for a console: COCO and VOC rules side by side, and class by class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from .measuring import Measured

__all__ = ["results_text"]

_DETECTION = {
    "COCO rules": {k: f"bbox/{k}" for k in ("AP", "AP50", "AP75", "APs", "APm", "APl")},
    "VOC rules": {
        **{k: f"voc/{k}" for k in ("AP", "AP50", "AP75")},
        "AP50 11-point": "voc/AP50-11point",
    },
}
_DETECTION_CLASSES = {
    "COCO rules": {"AP": "bbox/AP-{}", "AP50": "bbox/AP50-{}"},
    "VOC rules": {
        **{k: f"voc/{k}-{{}}" for k in ("AP", "AP50", "AP75")},
        "AP50 11-point": "voc/AP50-11point-{}",
    },
}
_OF_A_CLASS = "classification/top1-"
_SHOWN_CLASSES = 100

Columns = Mapping[str, Mapping[str, str]]


def results_text(rows: Sequence[Measured]) -> str:
    """Return the tables of each data set: a row for each model, then, of detectors, a row for each class and model.

    What does not occur in the data, NaN, is "-". The numbers are in percent.
    """
    parts = []
    for data in dict.fromkeys(row.data for row in rows):
        own = [row for row in rows if row.data == data]
        parts += [f"{data}, in percent:", _table({r.name: r.results for r in own}, _columns(own))]
        parts += [_class_table(own)]
    return "\n\n".join(filter(None, parts))


def _columns(rows: Sequence[Measured]) -> Columns:
    """Of each group of results its columns: heading -> key."""
    keys = list(dict.fromkeys(key for row in rows for key in row.results))
    if any(key.startswith("bbox/") for key in keys):
        return _DETECTION
    totals = [k for k in keys if not k.startswith(_OF_A_CLASS) or k == f"{_OF_A_CLASS}mean"]
    groups = dict.fromkeys(key.split("/")[0] for key in totals)
    return {g: {k.removeprefix(f"{g}/"): k for k in totals if k.startswith(f"{g}/")} for g in groups}


def _class_table(rows: Sequence[Measured]) -> str:
    """A row for each class of each model; "" if there are none, or more than can be read."""
    detectors = any(key.startswith("bbox/") for row in rows for key in row.results)
    prefix = "bbox/AP-" if detectors else _OF_A_CLASS
    classes = [k.removeprefix(prefix) for k in rows[0].results if k.startswith(prefix)]
    classes = [name for name in classes if detectors or name != "mean"]
    if not classes or len(classes) > _SHOWN_CLASSES:
        return ""
    columns: Columns = _DETECTION_CLASSES if detectors else {"classification": {"top1": _OF_A_CLASS + "{}"}}
    lines: dict[str, dict[str, float]] = {}
    for name in classes:
        for row in rows:
            label = name if len(rows) == 1 else f"{name}: {row.name}"
            keys = [key for group in columns.values() for key in group.values()]
            lines[label] = {key: row.results.get(key.format(name), math.nan) for key in keys}
    return _table(lines, columns)


def _table(rows: Mapping[str, Mapping[str, float]], columns: Columns) -> str:
    width = max(map(len, rows))
    blocks = [[_block(title, group, rows) for title, group in columns.items()]]
    lines = zip(["", "", *rows], *blocks[0], strict=True)
    return "\n".join(f"{label:{width}}  " + " | ".join(cells) for label, *cells in lines)


def _block(title: str, group: Mapping[str, str], rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The lines of one group: its title, its headings, then a line for each row; all of one width."""
    heads = [f"{heading:>6}" for heading in group]
    lines = [" ".join(heads)]
    for row in rows.values():
        values = (row.get(key, math.nan) for key in group.values())
        lines.append(" ".join(f"{_number(v):>{len(h)}}" for v, h in zip(values, heads, strict=True)))
    return _filled([title, *lines])


def _filled(lines: Iterable[str]) -> list[str]:
    lines = list(lines)
    return [line.ljust(max(map(len, lines))) for line in lines]


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"
