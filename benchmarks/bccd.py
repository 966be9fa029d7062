#!/usr/bin/env python
"""Measure distillation on the blood-cell set: one teacher, then students alone and distilled, several seeds each.

    python benchmarks/bccd.py --data FOLDER [--output DIR] [--seeds 0 1 2] [--jobs 2] [--device cuda]

FOLDER holds the unpacked set (BCCD/Annotations, ...). Every run is tools/train_net.py with a config of
configs/BCCD-Detection and the same schedule; finished runs are not repeated. Each run becomes one row of
benchmarks/results/bccd.csv; benchmarks/make_tables.py turns the rows into the README's table.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from runs import ROOT, hardware, logged, train, write

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
    rows = [row("teacher", TEACHER, 0, teacher, train(teacher, f"{CONFIGS}/{TEACHER}.yaml", [], arguments))]
    weights = ["DISTILL.TEACHERS.lite2.WEIGHTS", str(teacher / "model_final.pth")]
    train(output / "paraphraser", f"{CONFIGS}/{PARAPHRASER}.yaml", weights, arguments)
    paraphraser = ["DISTILL.PAIRS.ft.PARAPHRASER", str(output / "paraphraser/model_final.pth")]

    def student(name: str, seed: int) -> dict[str, Any]:
        config = STUDENTS[name]
        options = ["SEED", str(seed), *arguments.options]
        if config != STUDENTS["student alone"]:
            options += [*weights, "DISTILL.EVAL_TEACHERS", "False"]
        if "_ft" in config:
            options += paraphraser
        folder = output / f"{config}_seed{seed}"
        return row(name, config, seed, folder, train(folder, f"{CONFIGS}/{config}.yaml", options, arguments))

    jobs = [(name, seed) for seed in arguments.seeds for name in STUDENTS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows += list(pool.map(lambda job: student(*job), jobs))
    write(arguments.results, COLUMNS, rows)


if __name__ == "__main__":
    main()
