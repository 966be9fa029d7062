#!/usr/bin/env python
"""Train one student by every method, and alone: the demonstration's detector, or a classifier on CIFAR-10.

    python benchmarks/methods.py detection --data FOLDER [--seeds 0] [--jobs 2] [--only fsp review]
    python benchmarks/methods.py classification --data FOLDER

FOLDER holds the data sets (tree_tiles, which is made there; cifar10/train and cifar10/test). The methods are the
configs in configs/demo/methods and configs/CIFAR-Classification/methods; the classifiers are smaller than those configs
say, a ResNet-14 from a ResNet-20, and train for three passes, so that a CPU can do it. Finished runs are not repeated.
Weights of the methods are not tuned: a row shows that a method trains, not what it can reach.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from runs import ROOT, hardware, logged, train, write


class Task(NamedTuple):
    """What is trained: teacher, student, the folder of methods, options of all students, and what is measured."""

    teacher: str
    alone: str
    methods: str
    options: list[str]
    measures: dict[str, str]
    name: str


SHORT = [
    "SOLVER.MAX_ITER",
    "1170",
    "SOLVER.STEPS",
    "(780, 1050)",
    "SOLVER.WARMUP_ITERS",
    "100",
    "TEST.EVAL_PERIOD",
    "0",
]
SHORT += ["DATALOADER.NUM_WORKERS", "0", "MODEL.CIFAR_RESNET.DEPTH", "14"]
TASKS = {
    "detection": Task(
        "demo/teacher.yaml",
        "demo/student.yaml",
        "demo/methods",
        [],
        {"AP": "bbox/AP", "AP50": "bbox/AP50"},
        "teacher",
    ),
    "classification": Task(
        "CIFAR-Classification/teacher_R20.yaml",
        "CIFAR-Classification/student_R20.yaml",
        "CIFAR-Classification/methods",
        SHORT,
        {"top-1": "classification/top1", "nll": "classification/nll"},
        "r56",
    ),
}


def methods(folder: str) -> dict[str, dict[str, Any]]:
    """Return the pairs of every config of a folder that trains a student, without a stage before it, by file name."""
    found = {}
    for file in sorted((ROOT / "configs" / folder).glob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        pairs = content.get("DISTILL", {}).get("PAIRS", {})
        staged = content.get("DISTILL", {}).get("TRAIN_ONLY") or any(
            p.get("PARAPHRASER") for p in pairs.values()
        )
        complete = all("METHOD" in p for p in pairs.values())
        if pairs and complete and not staged and "META_ARCHITECTURE" not in content.get("MODEL", {}):
            found[file.stem] = pairs
    return found


def main() -> None:
    """Run everything that is not finished and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, required=True, help="the folder of data sets")
    parser.add_argument("--output", type=Path, default=ROOT / "output/methods", help="checkpoints and logs")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results/methods_TASK.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", help="only these methods (names of their files)")
    parser.add_argument("--jobs", type=int, default=2, help="students trained at the same time")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--options", nargs="*", default=[], help="KEY VALUE ... for the students' runs")
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()
    task, output = TASKS[arguments.task], arguments.output.resolve() / arguments.task
    if arguments.task == "detection":
        from det_distill.data.demo import prepare_demo_tiles

        prepare_demo_tiles(arguments.data)

    def row(model: str, config: str, seed: int, folder: Path, options: list[str]) -> dict[str, Any]:
        facts = train(folder, config, options, arguments)
        values = logged(folder)
        return {
            "model": model,
            "config": config,
            "seed": seed,
            "hardware": hardware(),
            "iterations": int(values["iteration"]),
            **{name: round(values[key], 2) for name, key in task.measures.items()},
            **facts,
        }

    rows = [row("teacher", task.teacher, 0, output / "teacher", [])]
    weights = str(output / "teacher/model_final.pth")

    def student(model: str, seed: int) -> dict[str, Any]:
        options = ["SEED", str(seed), "DISTILL.EVAL_TEACHERS", "False", *task.options, *arguments.options]
        if model == "alone":
            config, options = task.alone, [*options, "DISTILL.ENABLED", "False"]
        else:
            config = f"{task.methods}/{model}.yaml"
            teachers = [
                task.name,
                *("second" for p in found[model].values() if "second" in p.get("TEACHER_NAMES", [])),
            ]
            for name in teachers:
                options += [
                    f"DISTILL.TEACHERS.{name}.CONFIG",
                    task.teacher,
                    f"DISTILL.TEACHERS.{name}.WEIGHTS",
                    weights,
                ]
        return row(model, config, seed, output / f"{model}_seed{seed}", options)

    found = methods(task.methods)
    jobs = [(name, s) for s in arguments.seeds for name in arguments.only or ["alone", *found]]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows += list(pool.map(lambda job: student(*job), jobs))
    columns = [
        "model",
        "config",
        "seed",
        "commit",
        "hardware",
        "threads",
        "iterations",
        "minutes",
        *task.measures,
    ]
    write(arguments.results or ROOT / f"benchmarks/results/methods_{arguments.task}.csv", columns, rows)


if __name__ == "__main__":
    main()
