#!/usr/bin/env python
"""Measure on the blood-cell set: one teacher, then students alone, pretrained and distilled, several seeds each.

    python benchmarks/bccd.py --data FOLDER [--output DIR] [--seeds 0 1 2] [--jobs 2] [--device cuda]

FOLDER holds the unpacked set (BCCD/Annotations, ...), and cifar10/train and cifar10/test, folders of images per class,
for the student whose backbone has learned classification before. Every run is tools/train_net.py with a config of
configs/BCCD-Detection and the same schedule; finished runs are not repeated. Each run becomes one row of
benchmarks/results/bccd.csv; benchmarks/make_tables.py turns the rows into the README's table.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from runs import parser, run, train, write

CONFIGS = "BCCD-Detection"
TEACHER, PARAPHRASER, CLASSIFIER = "teacher_lite2_fpn", "paraphraser", "pretrain_lcnet"
STUDENTS = {
    "student alone": "student_lcnet_fpn",
    "student alone, pretrained": "student_lcnet_fpn_pretrained",
    "factor transfer": "student_lcnet_fpn_ft",
    "feature mimicking": "student_lcnet_fpn_fm",
    "factor transfer + feature mimicking": "student_lcnet_fpn_ft_fm",
}
CLASSES = ("Platelets", "RBC", "WBC")
MEASURES = {"AP": "bbox/AP", "AP50": "bbox/AP50", "AP75": "bbox/AP75", "VOC AP50": "voc/AP50"}
MEASURES |= {column: f"bbox/{column}" for ap in ("AP", "AP50") for column in (f"{ap}-{c}" for c in CLASSES)}


def main() -> None:
    """Run everything that is not finished and write the results."""
    options = parser(__doc__, "output/bccd", "benchmarks/results/bccd.csv")
    options.set_defaults(seeds=[0, 1, 2])
    arguments = options.parse_args()
    arguments.data = arguments.data.resolve()
    for needed in ("BCCD/Annotations", "cifar10/train"):
        if not (arguments.data / needed).is_dir():
            sys.exit(f"{arguments.data} has no {needed}: unpack the data sets there")

    output = arguments.output.resolve()
    teacher = output / "teacher"
    rows = [run("teacher", f"{CONFIGS}/{TEACHER}.yaml", 0, teacher, [], arguments, MEASURES)]
    weights = ["DISTILL.TEACHERS.lite2.WEIGHTS", str(teacher / "model_final.pth")]
    train(output / "paraphraser", f"{CONFIGS}/{PARAPHRASER}.yaml", weights, arguments)
    paraphraser = ["DISTILL.PAIRS.ft.PARAPHRASER", str(output / "paraphraser/model_final.pth")]

    train(output / "pretrain", f"{CONFIGS}/{CLASSIFIER}.yaml", [], arguments)
    pretrained = ["MODEL.WEIGHTS", str(output / "pretrain/model_final.pth")]

    def student(name: str, seed: int) -> dict[str, Any]:
        config = STUDENTS[name]
        options = ["SEED", str(seed), *arguments.options]
        if config.endswith("_pretrained"):
            options += pretrained
        elif config != STUDENTS["student alone"]:
            options += [*weights, "DISTILL.EVAL_TEACHERS", "False"]
        if "_ft" in config:
            options += paraphraser
        folder = output / f"{config}_seed{seed}"
        return run(name, f"{CONFIGS}/{config}.yaml", seed, folder, options, arguments, MEASURES)

    jobs = [(name, seed) for seed in arguments.seeds for name in STUDENTS]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows += list(pool.map(lambda job: student(*job), jobs))
    write(arguments.results, list(MEASURES), rows)


if __name__ == "__main__":
    main()
