#!/usr/bin/env python
"""Write the README's result tables from benchmarks/results/*.csv; with --check, only compare.

    python benchmarks/make_tables.py [--check]

A table stands between ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->``; its rows are the models of NAME.csv
with the mean and the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEASURES = ["AP", "AP50", "VOC AP50"]


def table(file: Path) -> str:
    """Return a Markdown table: model, number of seeds, mean +- standard deviation of each measure, minutes."""
    groups: dict[str, list[dict[str, str]]] = {}
    with open(file, newline="") as f:
        for row in csv.DictReader(f):
            groups.setdefault(row["model"], []).append(row)
    classes = [c for c in next(iter(groups.values()))[0] if c.startswith("AP-")]
    measures = [*MEASURES, *classes]
    lines = [
        "| model | seeds | " + " | ".join(measures) + " | minutes |",
        "| --- | --- | " + " | ".join("---" for _ in measures) + " | --- |",
    ]
    for model, rows in groups.items():
        cells = [spread([float(r[m]) for r in rows]) for m in measures]
        minutes = statistics.mean(float(r["minutes"]) for r in rows)
        lines.append(f"| {model} | {len(rows)} | " + " | ".join(cells) + f" | {minutes:.0f} |")
    first = next(iter(groups.values()))[0]
    students = [r for m, rows in groups.items() if m != "teacher" for r in rows]
    note = (
        f"Mean ± standard deviation over seeds; students: {students[0]['iterations']} iterations each, on "
        f"{first['hardware']}, {first['threads']} thread(s) a run."
    )
    return "\n".join([*lines, "", note])


def spread(values: list[float]) -> str:
    """Return ``mean ± standard deviation``, or the only value."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def filled(text: str) -> str:
    """Return the README with every table renewed."""

    def renew(match: re.Match[str]) -> str:
        name = match.group(1)
        rows = table(ROOT / "benchmarks/results" / f"{name}.csv")
        return f"<!-- results:{name} -->\n{rows}\n<!-- /results:{name} -->"

    return re.sub(r"<!-- results:(\w+) -->.*?<!-- /results:\1 -->", renew, text, flags=re.DOTALL)


def main() -> None:
    """Renew the README, or say that it is out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 if a table is out of date"
    )
    check = parser.parse_args().check
    readme = ROOT / "README.md"
    old = readme.read_text()
    new = filled(old)
    if check and new != old:
        sys.exit("README.md: a results table is out of date; run python benchmarks/make_tables.py")
    if not check:
        readme.write_text(new)


if __name__ == "__main__":
    main()
