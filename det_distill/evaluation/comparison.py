"""A table that compares detectors: what they find, what they cost."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .cost import ModelCost

__all__ = ["ComparisonRow", "comparison_markdown", "comparison_text", "recorded_results", "write_comparison"]


@dataclass(frozen=True)
class ComparisonRow:
    """One detector.

    Attributes:
        name: what the table calls it.
        results: ``bbox/AP``, ``bbox/AP50`` (COCO rules) and ``voc/AP50`` (VOC rules), in percent; a missing
            one is shown as "-".
        cost: what one image costs.
    """

    name: str
    results: Mapping[str, float]
    cost: ModelCost


_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("AP", "AP", 1),
    ("AP50", "AP50", 1),
    ("AP50_voc", "AP50 (VOC)", 1),
    ("parameters_millions", "parameters (M)", 2),
    ("gflops", "GFLOPs", 2),
    ("images_per_second", "images/s", 1),
)
"""(key in files, heading, decimals) of each column behind the name."""


def _values(row: ComparisonRow) -> dict[str, float]:
    nan = float("nan")
    return {
        "AP": row.results.get("bbox/AP", nan),
        "AP50": row.results.get("bbox/AP50", nan),
        "AP50_voc": row.results.get("voc/AP50", nan),
        "parameters_millions": row.cost.parameters / 1e6,
        "gflops": row.cost.giga_multiply_adds,
        "images_per_second": row.cost.images_per_second,
    }


def comparison_markdown(rows: Sequence[ComparisonRow]) -> str:
    """Return the table as Markdown, with a line below that explains its columns."""
    header, *body = _cells(rows)
    lines = [header, ["---", *["---:"] * len(_COLUMNS)], *body]
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in lines] + ["", _explanation(rows), ""])


def comparison_text(rows: Sequence[ComparisonRow]) -> str:
    """Return the table for a console, with a line below that explains its columns."""
    lines = _cells(rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    texts = [
        "  ".join(
            [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    ]
    return "\n".join([texts[0], "-" * len(texts[0]), *texts[1:], "", _explanation(rows)])


def _cells(rows: Sequence[ComparisonRow]) -> list[list[str]]:
    table = [["", *(heading for _, heading, _ in _COLUMNS)]]
    for row in rows:
        values = _values(row)
        table.append([row.name, *(_number(values[key], decimals) for key, _, decimals in _COLUMNS)])
    return table


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"


def _explanation(rows: Sequence[ComparisonRow]) -> str:
    """What was measured how; sizes, devices and threads once if they are the same for all rows."""
    text = "AP and AP50 in percent by COCO rules, AP50 (VOC) by VOC rules (area under the curve). "
    text += "1 GFLOP is 1e9 multiply-adds of one image"
    settings = {(r.cost.height, r.cost.width, r.cost.device, r.cost.threads) for r in rows}
    if len(settings) == 1:
        height, width, device, threads = settings.pop()
        where = f"{device} ({threads} thread{'s' * (threads > 1)})" if device == "cpu" else device
        text += f" of {height}x{width} pixels, images/s on {where}"
    return text + "."


def write_comparison(rows: Sequence[ComparisonRow], folder: Path) -> list[Path]:
    """Write ``comparison.md``, ``.csv`` (one line a detector) and ``.json`` (all results, all of the cost).

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"comparison.{suffix}" for suffix in ("md", "csv", "json")]
    files[0].write_text(comparison_markdown(rows), encoding="utf-8")
    with open(files[1], "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", *(key for key, _, _ in _COLUMNS)])
        table.writerows([row.name, *(f"{v:.6g}" for v in _values(row).values())] for row in rows)
    content = [{"name": r.name, "results": _finite(r.results), "cost": asdict(r.cost)} for r in rows]
    files[2].write_text(json.dumps(content, indent=1), encoding="utf-8")
    return files


def _finite(results: Mapping[str, float]) -> dict[str, float | None]:
    """NaN, the result for what does not occur in the data, is no JSON."""
    return {key: value if math.isfinite(value) else None for key, value in results.items()}


def recorded_results(folder: str | Path) -> dict[str, float]:
    """Return the last evaluation that a run wrote to its ``metrics.json``: ``bbox/AP``, ``voc/AP50``, ...

    Args:
        folder: the run's output folder.

    Returns:
        Metric -> value in percent; {} if the run was never evaluated.
    """
    file = Path(folder) / "metrics.json"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for line in reversed(lines):
        try:
            metrics = json.loads(line)
        except ValueError:  # cut off when the run was killed
            continue
        results = {k: v for k, v in metrics.items() if k.startswith(("bbox/", "voc/"))}
        if results:
            return results
    return {}
