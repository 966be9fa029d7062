#!/usr/bin/env python
"""Measure what each method adds to a training step: distilled step / (plain step + teacher's forward pass).

    python benchmarks/costs.py [--iterations 10] [--only FSP ReviewFusion]

One config of each method, with random weights: of the demonstration (a batch of two 320x320 images), or, for what only
classifiers have, of CIFAR-10 (128 images of 32x32). tools/benchmark.py measures; the rows go to
benchmarks/results/costs.csv, from where benchmarks/make_tables.py takes them to docs/methods.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from runs import ROOT, hardware

from det_distill.methods import METHODS

FOLDERS = {
    "demo/methods": ["--size", "320", "320", "--batch", "2"],
    "CIFAR-Classification/methods": ["--size", "32", "32"],
}
COLUMNS = (
    "method",
    "config",
    "ratio",
    "distilled ms",
    "plain ms",
    "teacher ms",
    "hardware",
    "threads",
    "commit",
)


def configs() -> dict[str, tuple[str, list[str]]]:
    """Return a config and the benchmark's options for every method: that with the fewest others beside it.

    Of several the one that is called like the method, else the first; the demonstration's before CIFAR-10's.
    """
    found: dict[str, list[tuple[int, int, bool, str, list[str]]]] = {}
    for number, (folder, options) in enumerate(FOLDERS.items()):
        for file in sorted((ROOT / "configs" / folder).glob("*.yaml")):
            content = yaml.safe_load(file.read_text())
            pairs = content.get("DISTILL", {}).get("PAIRS", {})
            names = {pair["METHOD"] for pair in pairs.values() if "METHOD" in pair}
            if "META_ARCHITECTURE" in content.get("MODEL", {}):
                continue
            for name in names:
                other = file.stem.replace("_", "") != name.lower()
                found.setdefault(name, []).append(
                    (len(names), number, other, f"{folder}/{file.name}", options)
                )
    return {method: min(found[method])[3:] for method in METHODS}


def measured(config: str, options: list[str], iterations: int, threads: int) -> dict[str, Any]:
    """Return what tools/benchmark.py measured of a config."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        command = [
            sys.executable,
            str(ROOT / "tools/benchmark.py"),
            "--config-file",
            config,
            "--random-weights",
        ]
        command += ["--no-memory", "--iterations", str(iterations), "--json", str(file), *options]
        subprocess.run(
            [*command, "MODEL.DEVICE", "cpu"], check=True, env=environment, stdout=subprocess.DEVNULL
        )
        return dict(json.loads(file.read_text()))


def main() -> None:
    """Measure every method and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=10, help="repeats of every part")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="METHOD", help="only these methods")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/costs.csv")
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT
    )
    rows = read(arguments.results)
    for method, (config, options) in configs().items():
        if arguments.only and method not in arguments.only:
            continue
        report = measured(config, options, arguments.iterations, arguments.threads)
        ratio = round(report["ratios"]["distilled / (plain + teacher)"], 3)
        row = {"method": method, "config": config, "ratio": ratio}
        row |= {
            f"{part} ms": round(1e3 * report["medians"][part], 1)
            for part in ("distilled", "plain", "teacher")
        }
        row |= {"hardware": hardware(), "threads": arguments.threads, "commit": commit.stdout.strip()}
        rows[method] = row
        print(method, ratio, flush=True)
        with open(arguments.results, "w", newline="") as file:  # at once: an interruption loses one method
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows[name] for name in METHODS if name in rows)


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Return the rows that an earlier run has left, by method."""
    if not file.is_file():
        return {}
    with open(file, newline="") as f:
        return {row["method"]: dict(row) for row in csv.DictReader(f)}


if __name__ == "__main__":
    main()
