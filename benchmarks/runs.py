"""Runs of tools/train_net.py that a benchmark is made of: each is done once, and leaves what it logged."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN = time.monotonic()
ROOT = Path(__file__).resolve().parents[1]
# The first columns of every results file.
COLUMNS = ["model", "config", "seed", "commit", "hardware", "threads", "iterations", "minutes"]


class OutOfTime(Exception):
    """A run was stopped, or not begun, because the time that was given is over."""


def parser(description: str | None, output: str, results: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options that the benchmarks share.

    Args:
        description: the script's docstring.
        output: default folder of the runs, below the repository.
        results: default results file, below the repository; None if the script chooses it.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--output", type=Path, default=ROOT / output, help="checkpoints and logs")
    parser.add_argument("--results", type=Path, default=ROOT / results if results else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=2, help="students trained at the same time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, help="stop runs after this time; another call goes on")
    parser.add_argument("--options", nargs="*", default=[], help="KEY VALUE ... for the students' runs")
    return parser


def run(
    model: str,
    config: str,
    seed: int,
    folder: Path,
    options: list[str],
    arguments: argparse.Namespace,
    measures: Mapping[str, str],
) -> dict[str, Any]:
    """Run one config unless it is finished; return its line of the results file.

    Args:
        measures: the logged scalar of each further column; one that was not logged is left out.
    """
    facts = train(folder, config, options, arguments)
    values = logged(folder)
    return {
        "model": model,
        "config": config,
        "seed": seed,
        "hardware": hardware(),
        "iterations": int(values["iteration"]),
        **{name: round(values[key], 2) for name, key in measures.items() if key in values},
        **facts,
    }


def train(folder: Path, config: str, options: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one config unless it is finished; return its minutes, commit and number of threads.

    Args:
        folder: the run's own.
        config: as ``tools/train_net.py`` takes it.
        options: KEY, value, ...
        arguments: with ``data``, ``device``, ``threads`` and ``minutes``.

    Raises:
        OutOfTime: the time that was given is over; the run can go on.
    """
    finished = folder / "finished.json"
    if finished.is_file():
        facts = dict(json.loads(finished.read_text()))
        if facts.pop("options", options) != options:
            raise SystemExit(f"{folder} was made with other options: remove it, or choose another --output")
        return facts
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        str(ROOT / "tools/train_net.py"),
        "--resume",
        "--config-file",
        config,
    ]
    settings = ["OUTPUT_DIR", str(folder), "MODEL.DEVICE", arguments.device, *options]
    environment = {
        **os.environ,
        "DETECTRON2_DATASETS": str(arguments.data),
        "OMP_NUM_THREADS": str(arguments.threads),
    }
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT
    )
    begin = time.monotonic()
    left = None if arguments.minutes is None else BEGIN + 60 * arguments.minutes - begin
    if left is not None and left <= 0:
        raise OutOfTime(f"{folder.name}: no time left")
    try:
        with open(folder / "console.log", "a") as log:
            done = subprocess.run(command + settings, stdout=log, stderr=log, env=environment, timeout=left)
    except subprocess.TimeoutExpired:
        raise OutOfTime(f"{folder.name}: out of time, goes on from its last checkpoint") from None
    if done.returncode:
        raise SystemExit(f"{config} failed; see {folder / 'console.log'}")
    minutes = round((time.monotonic() - begin) / 60, 1)
    facts = {"minutes": minutes, "commit": commit.stdout.strip(), "threads": arguments.threads}
    finished.write_text(json.dumps({**facts, "options": options}))
    print(f"{folder.name}: {minutes} min", flush=True)
    return facts


def logged(folder: Path) -> dict[str, Any]:
    """Return everything that a run logged, the last value of each."""
    values: dict[str, Any] = {}
    for line in (folder / "metrics.json").read_text().splitlines():
        values.update(json.loads(line))
    return values


def hardware() -> str:
    """Name the GPU, or the processor's architecture and the number of its cores."""
    import torch

    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.machine()}, {os.cpu_count()} cores"
    )


def merged(file: Path, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return `rows` and those of the results file, if there is one, that are of other models or seeds."""
    new = {(row["model"], str(row["seed"])) for row in rows}
    if not file.is_file():
        return list(rows)
    with open(file, newline="") as f:
        kept = [row for row in csv.DictReader(f) if (row["model"], row["seed"]) not in new]
    return [*rows, *kept]


def write(file: Path, measures: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write the results file: those of COLUMNS that the rows have, then the measures."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as f:
        writer = csv.DictWriter(f, [*(c for c in COLUMNS if c in rows[0]), *measures])
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows in {file}")
