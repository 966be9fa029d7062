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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def train(folder: Path, config: str, options: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one config unless it is finished; return its minutes, commit and number of threads.

    Args:
        folder: the run's own.
        config: as ``tools/train_net.py`` takes it.
        options: KEY, value, ...
        arguments: with ``data``, ``device`` and ``threads``.
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
    with open(folder / "console.log", "a") as log:
        done = subprocess.run(command + settings, stdout=log, stderr=log, env=environment)
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


def write(file: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write the results file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as f:
        writer = csv.DictWriter(f, columns)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows in {file}")
