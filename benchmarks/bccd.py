#!/usr/bin/env python
"""Measure distillation on the blood-cell set: one teacher, then students alone and distilled, several seeds each.

    python benchmarks/bccd.py --data FOLDER [--output DIR] [--seeds 0 1 2] [--jobs 2] [--device cuda]

FOLDER holds the unpacked set (BCCD/Annotations, ...). Every run is tools/train_net.py with a config of
configs/BCCD-Detection and the same schedule; finished runs are not repeated. Each run becomes one row of
benchmarks/results/bccd.csv; benchmarks/make_tables.py turns the rows into the README's table.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = "BCCD-Detection"
TEACHER, PARAPHRASER = "teacher_lite2_fpn", "paraphraser"
STUDENTS = {
    "student alone": "student_lcnet_fpn",
    "factor transfer": "student_lcnet_fpn_ft",
    "feature mimicking": "student_lcnet_fpn_fm",
    "factor transfer + feature mimicking": "student_lcnet_fpn_ft_fm",
}
COLUMNS = [
    "model",
    "config",
    "seed",
    "commit",
    "hardware",
    "threads",
    "iterations",
    "minutes",
    "AP",
    "AP50",
    "AP75",
]
COLUMNS += ["VOC AP50", "AP-Platelets", "AP-RBC", "AP-WBC", "AP50-Platelets", "AP50-RBC", "AP50-WBC"]


def train(folder: Path, config: str, options: list[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one config unless it is finished; return its minutes, commit and number of threads."""
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
        f"{CONFIGS}/{config}.yaml",
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


def row(name: str, config: str, seed: int, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return one line of the results file."""
    values = logged(folder)
    return {
        "model": name,
        "config": f"{CONFIGS}/{config}.yaml",
        "seed": seed,
        "hardware": hardware(),
        "iterations": int(values["iteration"]),
        "VOC AP50": round(values["voc/AP50"], 2),
        **{c: round(values[f"bbox/{c}"], 2) for c in COLUMNS if f"bbox/{c}" in values},
        **facts,
    }


def hardware() -> str:
    """Name the GPU, or the processor's architecture and the number of its cores."""
    import torch

    return (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.machine()}, {os.cpu_count()} cores"
    )


def main() -> None:
    """Run everything that is not finished and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds BCCD/")
    parser.add_argument("--output", type=Path, default=ROOT / "output/bccd", help="checkpoints and logs")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results/bccd.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="students trained at the same time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--options", nargs="*", default=[], help="KEY VALUE ... for the students' runs")
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()
    if not (arguments.data / "BCCD/Annotations").is_dir():
        sys.exit(f"{arguments.data} has no BCCD/Annotations: unpack the blood-cell set there")

    output = arguments.output.resolve()
    teacher = output / "teacher"
    rows = [row("teacher", TEACHER, 0, teacher, train(teacher, TEACHER, [], arguments))]
    weights = ["DISTILL.TEACHERS.lite2.WEIGHTS", str(teacher / "model_final.pth")]
    train(output / "paraphraser", PARAPHRASER, weights, arguments)
    paraphraser = ["DISTILL.PAIRS.ft.PARAPHRASER", str(output / "paraphraser/model_final.pth")]

    def student(name: str, seed: int) -> dict[str, Any]:
        config = STUDENTS[name]
        options = ["SEED", str(seed), *arguments.options]
        if config != STUDENTS["student alone"]:
            options += [*weights, "DISTILL.EVAL_TEACHERS", "False"]
        if "_ft" in config:
            options += paraphraser
        folder = output / f"{config}_seed{seed}"
        return row(name, config, seed, folder, train(folder, config, options, arguments))

    jobs = [(name, seed) for seed in arguments.seeds for name in STUDENTS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows += list(pool.map(lambda job: student(*job), jobs))
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    with open(arguments.results, "w", newline="") as f:
        writer = csv.DictWriter(f, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} rows in {arguments.results}")


if __name__ == "__main__":
    main()
