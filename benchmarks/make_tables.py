#!/usr/bin/env python
"""Write the result tables of README.md and docs/ from benchmarks/results/*.csv; with --check, only compare.

    python benchmarks/make_tables.py [--check]

A table stands between ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->``; its rows are the models of NAME.csv
with the mean and the standard deviation over seeds. In a table with the columns *method* and *cost*, the costs are
those of costs.csv.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/methods.md", "docs/results.md")
MEASURES = ("AP", "AP50", "VOC AP50", "top-1", "nll", "ece", "agreement", "R@1", "mAP")
DECIMALS = {"nll": 2}


def table(file: Path) -> str:
    """Return a Markdown table: model, number of seeds, mean +- standard deviation of each measure, minutes if known."""
    groups: dict[str, list[dict[str, str]]] = {}
    with open(file, newline="") as f:
        for row in csv.DictReader(f):
            groups.setdefault(row["model"], []).append(row)
    columns = next(iter(groups.values()))[0]
    measures = [c for c in columns if c in MEASURES or c.startswith("AP-")]
    timed = ["minutes"] if "minutes" in columns else []
    header = ["model", "seeds", *measures, *timed]
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header))]
    for model, rows in groups.items():
        cells = [spread([float(r[m]) for r in rows if r[m]], DECIMALS.get(m, 1)) for m in measures]
        cells += [f"{statistics.mean(float(r[t]) for r in rows):.0f}" for t in timed]
        lines.append("| " + " | ".join([model, str(len(rows)), *cells]) + " |")
    first = next(iter(groups.values()))[0]
    students = [r for m, rows in groups.items() if not m.endswith("teacher") for r in rows]
    note = (
        f"Mean ± standard deviation over seeds; students: {students[0]['iterations']} iterations each, on "
        f"{first['hardware']}, {first['threads']} thread(s) a run."
    )
    return "\n".join([*lines, "", note])


def spread(values: list[float], decimals: int = 1) -> str:
    """Return ``mean ± standard deviation``, the only value, or "-" where there is none."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.{decimals}f}"
    return f"{statistics.mean(values):.{decimals}f} ± {statistics.stdev(values):.{decimals}f}"


def with_costs(text: str) -> str:
    """Return the document with the costs of methods renewed, in the table whose header has *method* and *cost*."""
    file = ROOT / "benchmarks/results/costs.csv"
    if not file.is_file():
        return text
    with open(file, newline="") as f:
        costs = {row["method"]: f"{float(row['ratio']):.2f}" for row in csv.DictReader(f)}
    lines, column = text.split("\n"), None
    for number, line in enumerate(lines):
        cells = line.split(" | ")
        if not line.startswith("| "):
            column = None
        elif line.startswith("| method |") and "cost" in cells:
            column = cells.index("cost")
        elif column is not None and line.startswith("| ["):
            name = line[3 : line.index("]")]
            cells[column] = costs.get(name, "-")
            lines[number] = " | ".join(cells)
    return "\n".join(lines)


def filled(text: str) -> str:
    """Return a document with every table renewed."""

    def renew(match: re.Match[str]) -> str:
        name = match.group(1)
        rows = table(ROOT / "benchmarks/results" / f"{name}.csv")
        return f"<!-- results:{name} -->\n{rows}\n<!-- /results:{name} -->"

    return with_costs(
        re.sub(r"<!-- results:([\w-]+) -->.*?<!-- /results:\1 -->", renew, text, flags=re.DOTALL)
    )


def main() -> None:
    """Renew the documents, or say which is out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a table is out of date"
    )
    check = parser.parse_args().check
    for name in DOCUMENTS:
        old = (ROOT / name).read_text()
        new = filled(old)
        if check and new != old:
            sys.exit(f"{name}: a results table is out of date; run python benchmarks/make_tables.py")
        if not check:
            (ROOT / name).write_text(new)


if __name__ == "__main__":
    main()
