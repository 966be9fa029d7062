#!/usr/bin/env python
"""Train one student by every method, and alone: the demonstration's detector, or a classifier on CIFAR-10.

    python benchmarks/methods.py detection --data FOLDER [--jobs 2] [--only fsp review]
    python benchmarks/methods.py classification --data FOLDER

FOLDER holds the data sets (tree_tiles, which is made there; cifar10/train and cifar10/test). The methods are the
configs in configs/demo/methods and configs/CIFAR-Classification/methods. The classifiers are smaller than those configs
say, so that a CPU can train them: a ResNet-8 that sees each image once learns from a ResNet-20 that saw it three times.
Finished runs are not repeated. The student alone is trained with several seeds: they show what chance does to a row.
The methods' weights are not tuned, and a run is short: a row shows that a method trains, not what it can reach.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import yaml
from runs import ROOT, parser, run, write


class Task(NamedTuple):
    """What is trained: teacher, student, the folder of methods, options of all students, and what is measured."""

    teacher: str
    alone: str
    methods: str
    schedule: list[str]  # options of the teacher's run
    options: list[str]  # options of the students' runs
    measures: dict[str, str]
    name: str


SHORT = "SOLVER.MAX_ITER 390 SOLVER.STEPS (260,350) SOLVER.WARMUP_ITERS 100 TEST.EVAL_PERIOD 0 DATALOADER.NUM_WORKERS 0"
TASKS = {
    "detection": Task(
        "demo/teacher.yaml",
        "demo/student.yaml",
        "demo/methods",
        [],
        [],
        {"AP": "bbox/AP", "AP50": "bbox/AP50"},
        "teacher",
    ),
    "classification": Task(
        "CIFAR-Classification/teacher_R20.yaml",
        "CIFAR-Classification/student_R20.yaml",
        "CIFAR-Classification/methods",
        ["SOLVER.MAX_ITER", "1170", "SOLVER.STEPS", "(780,1050)"],
        [*SHORT.split(), "MODEL.CIFAR_RESNET.DEPTH", "8"],
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
    options = parser(__doc__, "output/methods", None)
    options.add_argument("task", choices=TASKS)
    options.add_argument("--only", nargs="+", help="only these methods (names of their files)")
    options.add_argument("--alone", type=int, nargs="+", default=[0, 1, 2], help="seeds of the student alone")
    arguments = options.parse_args()
    arguments.data = arguments.data.resolve()
    task, output = TASKS[arguments.task], arguments.output.resolve() / arguments.task
    if arguments.task == "detection":
        from det_distill.data.demo import prepare_demo_tiles

        prepare_demo_tiles(arguments.data)

    rows = [run("teacher", task.teacher, 0, output / "teacher", task.schedule, arguments, task.measures)]
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
        return run(model, config, seed, output / f"{model}_seed{seed}", options, arguments, task.measures)

    found = methods(task.methods)
    jobs = [("alone", seed) for seed in arguments.alone]
    jobs += [(name, seed) for seed in arguments.seeds for name in arguments.only or found]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows += list(pool.map(lambda job: student(*job), jobs))
    results = arguments.results or ROOT / f"benchmarks/results/methods_{arguments.task}.csv"
    write(results, list(task.measures), rows)


if __name__ == "__main__":
    main()
