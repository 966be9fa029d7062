"""A table that compares models: what they find, what they cost."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from .cost import ModelCost

__all__ = [
    "ComparisonRow",
    "comparison_markdown",
    "comparison_text",
    "outcome",
    "recorded_results",
    "write_comparison",
]


class _Column(NamedTuple):
    """A column behind the name."""

    key: str  # in files
    heading: str
    decimals: int
    logged: str = ""  # the run's scalar; "" for what is measured here
    optional: bool = False  # left out if no row has it


_RESULTS: Mapping[str, tuple[_Column, ...]] = {
    "bbox": (
        _Column("AP", "AP", 1, "bbox/AP"),
        _Column("AP50", "AP50", 1, "bbox/AP50"),
        _Column("AP50_voc", "AP50 (VOC)", 1, "voc/AP50"),
    ),
    "classification": (
        _Column("top1", "top-1", 1, "classification/top1"),
        _Column("top5", "top-5", 1, "classification/top5", optional=True),
        _Column("ece", "ECE", 1, "classification/ece", optional=True),
    ),
    "retrieval": (
        _Column("recall_at_1", "R@1", 1, "retrieval/R1"),
        _Column("mAP", "mAP", 1, "retrieval/mAP"),
    ),
}
"""What a model is compared by, from the results that its run logged; the first that a row has."""
_EXPLANATIONS: Mapping[str, str] = {
    "bbox": "AP and AP50 in percent by COCO rules, AP50 (VOC) by VOC rules (area under the curve)",
    "classification": "Top-k accuracy in percent: the class is among the k most probable ones",
    "retrieval": "Recall at 1 and mean average precision of the retrieval in percent",
}
_OPTIONAL_EXPLANATIONS: Mapping[str, str] = {
    "ece": "ECE is the expected calibration error in percent (15 bins)",
    "agreement": "Agreement is the percentage of the images for which the teacher predicts the same class",
}
_AGREEMENT, _CLASS = "classification/agreement-", "classification/top1-"
_SHOWN_CLASSES = 20
_COSTS = (
    _Column("parameters_millions", "parameters (M)", 2),
    _Column("gflops", "GFLOPs", 2),
    _Column("images_per_second", "images/s", 1),
)


@dataclass(frozen=True)
class ComparisonRow:
    """One model.

    Attributes:
        name: what the table calls it.
        results: what its run logged, in percent: of a detector ``bbox/AP``, ``bbox/AP50`` (COCO rules) and ``voc/AP50``
            (VOC rules), of a classifier ``classification/top1``, ``top5``, ``ece``, ``agreement-<teacher>``
            and ``top1-<class>``, of a metric learner ``retrieval/R1`` and ``mAP``; a missing one is shown as "-".
        cost: what one image costs.
    """

    name: str
    results: Mapping[str, float]
    cost: ModelCost


def _kind(rows: Sequence[ComparisonRow]) -> str:
    """The first part of _RESULTS that some row has a result of; a table without any has a detector's columns."""
    logged = {key.split("/")[0] for row in rows for key in row.results}
    return next((kind for kind in _RESULTS if kind in logged), "bbox")


def _columns(rows: Sequence[ComparisonRow]) -> tuple[_Column, ...]:
    results = [c for c in _RESULTS[_kind(rows)] if not c.optional or any(c.logged in r.results for r in rows)]
    return (*results, *_agreements(rows), *_COSTS)


def _agreements(rows: Sequence[ComparisonRow]) -> list[_Column]:
    """A column per teacher."""
    names = _endings(rows, _AGREEMENT) if _kind(rows) == "classification" else []
    return [_Column(f"agreement_{n}", f"agreement with {n}", 1, _AGREEMENT + n) for n in names]


def _endings(rows: Sequence[ComparisonRow], beginning: str) -> list[str]:
    """What follows after `beginning` in the keys of the rows' results, in the order of the first row that has it."""
    return list(
        dict.fromkeys(k[len(beginning) :] for r in rows for k in r.results if k.startswith(beginning))
    )


def _values(row: ComparisonRow, columns: Sequence[_Column]) -> dict[str, float]:
    nan = float("nan")
    return {
        **{column.key: row.results.get(column.logged, nan) for column in columns if column.logged},
        "parameters_millions": row.cost.parameters / 1e6,
        "gflops": row.cost.giga_multiply_adds,
        "images_per_second": row.cost.images_per_second,
    }


def comparison_markdown(rows: Sequence[ComparisonRow]) -> str:
    """Return the table as Markdown, with a line below that explains its columns; see `comparison_text`."""
    parts = [_markdown(_cells(rows)), _explanation(rows)]
    if classes := _class_cells(rows):
        parts += [_markdown(classes)]
    return "\n\n".join(parts) + "\n"


def comparison_text(rows: Sequence[ComparisonRow]) -> str:
    """Return the table for a console, with a line below that explains its columns.

    Of classifiers of up to 20 classes a second table follows, with the accuracy by class: a row per class, a column per
    model.
    """
    parts = [_text(_cells(rows)), _explanation(rows)]
    if classes := _class_cells(rows):
        parts += [_text(classes)]
    return "\n\n".join(parts)


def _markdown(cells: Sequence[Sequence[str]]) -> str:
    header, *body = cells
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    texts = [
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    ]
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:]])


def _cells(rows: Sequence[ComparisonRow]) -> list[list[str]]:
    columns = _columns(rows)
    table = [["", *(column.heading for column in columns)]]
    for row in rows:
        values = _values(row, columns)
        table.append([row.name, *(_number(values[column.key], column.decimals) for column in columns)])
    return table


def _class_cells(rows: Sequence[ComparisonRow]) -> list[list[str]]:
    """The accuracy of every class, and their mean; [] without classes, or with too many to be read."""
    names = [name for name in _endings(rows, _CLASS) if name != "mean"]
    if not names or len(names) > _SHOWN_CLASSES or _kind(rows) != "classification":
        return []
    table = [["top-1 of the class", *(row.name for row in rows)]]
    for name in [*names, "mean"]:
        values = [row.results.get(_CLASS + name, float("nan")) for row in rows]
        table.append([name, *(_number(value, 1) for value in values)])
    return table


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"


def _explanation(rows: Sequence[ComparisonRow]) -> str:
    """What was measured how; sizes, devices and threads once if they are the same for all rows."""
    shown = {column.key.split("_")[0] for column in _columns(rows)}
    notes = [_EXPLANATIONS[_kind(rows)], *(v for k, v in _OPTIONAL_EXPLANATIONS.items() if k in shown)]
    text = f"{'. '.join(notes)}. 1 GFLOP is 1e9 multiply-adds of one image"
    settings = {(r.cost.height, r.cost.width, r.cost.device, r.cost.threads) for r in rows}
    if len(settings) == 1:
        height, width, device, threads = settings.pop()
        where = f"{device} ({threads} thread{'s' * (threads > 1)})" if device == "cpu" else device
        text += f" of {height}x{width} pixels, images/s on {where}"
    return text + "."


def write_comparison(rows: Sequence[ComparisonRow], folder: Path) -> list[Path]:
    """Write ``comparison.md``, ``.csv`` (one line a model) and ``.json`` (all results, all of the cost).

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"comparison.{suffix}" for suffix in ("md", "csv", "json")]
    files[0].write_text(comparison_markdown(rows), encoding="utf-8")
    with open(files[1], "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        columns = _columns(rows)
        table.writerow(["name", *(column.key for column in columns)])
        table.writerows([row.name, *(f"{v:.6g}" for v in _values(row, columns).values())] for row in rows)
    content = [{"name": r.name, "results": _finite(r.results), "cost": asdict(r.cost)} for r in rows]
    files[2].write_text(json.dumps(content, indent=1), encoding="utf-8")
    return files


def _finite(results: Mapping[str, float]) -> dict[str, float | None]:
    """NaN, the result for what does not occur in the data, is no JSON."""
    return {key: value if math.isfinite(value) else None for key, value in results.items()}


def recorded_results(folder: str | Path) -> dict[str, float]:
    """Return the last evaluation that a run wrote to its ``metrics.json``: ``bbox/AP``, ``classification/top1``, ...

    Args:
        folder: the run's output folder.

    Returns:
        Metric -> value, in percent unless it is the classification's ``nll`` or the retrieval's ``queries``; {} if the
        run was never evaluated.
    """
    file = Path(folder) / "metrics.json"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for line in reversed(lines):
        try:
            metrics = json.loads(line)
        except ValueError:  # cut off when the run was killed
            continue
        results = {k: v for k, v in metrics.items() if k.split("/")[0] in ("voc", *_RESULTS)}
        if results:
            return results
    return {}


def outcome(results: Mapping[str, float]) -> str:
    """Return the number that a run is known by, as a text: "AP50 41.2", "top-1 71.3"; "" without any."""
    for column in (_RESULTS["bbox"][1], _RESULTS["classification"][0], _RESULTS["retrieval"][0]):
        if column.logged in results:
            return f"{column.heading} {results[column.logged]:.1f}"
    return ""
