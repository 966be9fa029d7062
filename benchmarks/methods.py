#!/usr/bin/env python
"""Train one student by every method, and alone: the demonstration's detector, or a classifier on CIFAR-10.

    python benchmarks/methods.py detection --data FOLDER [--jobs 2] [--only fsp review]
    python benchmarks/methods.py classification --data FOLDER
    python benchmarks/methods.py retrieval --data FOLDER

FOLDER holds the data sets (tree_tiles, which is made there; cifar10/train and cifar10/test). The methods are the
configs in configs/demo/methods and configs/CIFAR-Classification/methods. The classifiers are smaller than those configs
say, so that a CPU can train them: a ResNet-8 that sees each image once learns from a ResNet-20 that saw it three times.
"retrieval" trains DarkRank with its metric-learning losses, the ten classes being the identities.
Paraphrasers, and the first stage of a method that has two, are trained before; the second stage is the student alone.
Several teachers differ by their seeds. Finished runs are not repeated. The student alone is trained with several seeds:
they show what chance does to a row. The methods' weights are not tuned, and a run is short: a row shows that a method
trains, not what it can reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from runs import ROOT, merged, parser, run, train, write

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """What is trained, from which configs, with which options, and what is measured."""

    teacher: str
    alone: str
    methods: str  # folder of configs
    main_teacher: str  # its name in those configs
    measures: Mapping[str, str]  # column -> logged scalar
    metric_learning: bool = False  # whether the task has the configs of metric learners, or the others
    teachers: str = ""  # the task whose teachers it shares
    of_teachers: Options = field(default_factory=dict)
    of_students: Options = field(default_factory=dict)
    of_paraphrasers: Options = field(default_factory=dict)
    of_methods: Mapping[str, Options] = field(default_factory=dict)


# A stage of ResNet-8 has one block, too few for the matrices inside stages that the config has: between them instead.
FSP = {
    f"DISTILL.PAIRS.{pair}.{side}": at
    for pair, at in {
        "fsp2": "['backbone.stem','backbone:res2']",
        "fsp3": "['backbone:res2','backbone:res3']",
        "fsp4": "['backbone:res3','backbone:res4']",
    }.items()
    for side in ("STUDENT", "TEACHER")
}
CIFAR: dict[str, Any] = {
    "teacher": "CIFAR-Classification/teacher_R20.yaml",
    "methods": "CIFAR-Classification/methods",
    "main_teacher": "r56",
    "of_teachers": {"SOLVER.MAX_ITER": 1170, "SOLVER.STEPS": "(780,1050)"},
    "of_students": {
        "SOLVER.MAX_ITER": 390,
        "SOLVER.STEPS": "(260,350)",
        "SOLVER.WARMUP_ITERS": 100,
        "TEST.EVAL_PERIOD": 0,
        "DATALOADER.NUM_WORKERS": 0,
        "MODEL.CIFAR_RESNET.DEPTH": 8,
    },
}
TASKS = {
    "detection": Task(
        "demo/teacher.yaml",
        "demo/student.yaml",
        "demo/methods",
        "teacher",
        {"AP": "bbox/AP", "AP50": "bbox/AP50"},
        of_paraphrasers={
            "SOLVER.MAX_ITER": 100,
            "SOLVER.STEPS": "(80,)",
            "SOLVER.BASE_LR": 0.5,
            "SOLVER.WARMUP_ITERS": 10,
        },
    ),
    "classification": Task(
        alone="CIFAR-Classification/student_R20.yaml",
        measures={"top-1": "classification/top1", "nll": "classification/nll"},
        of_paraphrasers={"SOLVER.MAX_ITER": 390, "SOLVER.STEPS": "()"},
        of_methods={"fsp": FSP},
        **CIFAR,
    ),
    "retrieval": Task(
        alone="CIFAR-Classification/methods/darkrank_metric_learning.yaml",
        measures={"R@1": "retrieval/R1", "mAP": "retrieval/mAP"},
        metric_learning=True,
        teachers="classification",
        **CIFAR,
    ),
}


def methods(task: Task) -> dict[str, dict[str, Any]]:
    """Return the DISTILL part of every config of a task that trains a student from the start, by file name."""
    found = {}
    for file in sorted((ROOT / "configs" / task.methods).glob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        distill = content.get("DISTILL", {})
        metric_learning = distill.get("STUDENT_ARCHITECTURE") == "MetricLearner"
        trains = "META_ARCHITECTURE" not in content.get("MODEL", {}) and not content.get("MODEL", {}).get(
            "WEIGHTS"
        )
        if trains and metric_learning == task.metric_learning:
            found[file.stem] = distill
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
    teachers = arguments.output.resolve() / (task.teachers or arguments.task)
    if arguments.task == "detection":
        from det_distill.data.demo import prepare_demo_tiles

        prepare_demo_tiles(arguments.data)

    found = methods(task)
    chosen = {name: found[name] for name in arguments.only or found}
    trained = partial(run, arguments=arguments, measures=task.measures)
    rows = [trained("teacher", task.teacher, 0, teachers / "teacher", flat(task.of_teachers))]
    if any(set(distill.get("TEACHERS", ())) - {task.main_teacher} for distill in chosen.values()):
        other = flat({**task.of_teachers, "SEED": 1})
        rows.append(trained("second teacher", task.teacher, 1, teachers / "teacher_seed1", other))

    def student(model: str, seed: int) -> dict[str, Any]:
        options = {"SEED": seed, "DISTILL.EVAL_TEACHERS": False, **task.of_students}
        alone = flat({**options, "DISTILL.ENABLED": False}) + arguments.options
        if model == "student alone":
            return trained(model, task.alone, seed, output / f"alone_seed{seed}", alone)
        config, folder = f"{task.methods}/{model}.yaml", output / f"{model}_seed{seed}"
        options |= {**task.of_methods.get(model, {}), **weights(task, chosen[model], teachers)}
        given = flat(options) + arguments.options
        pairs = [name for name, pair in chosen[model].get("PAIRS", {}).items() if pair.get("PARAPHRASER")]
        if pairs:
            first = folder.with_name(f"{folder.name}_paraphraser")
            kind = {"MODEL.META_ARCHITECTURE": "ParaphraserPretrainer"}
            train(first, config, given + flat({**task.of_paraphrasers, **kind}), arguments)
            given += flat({f"DISTILL.PAIRS.{n}.PARAPHRASER": first / "model_final.pth" for n in pairs})
        if chosen[model].get("TRAIN_ONLY"):
            first = folder.with_name(f"{folder.name}_first_stage")
            train(first, config, given, arguments)
            config, given = task.alone, alone + flat({"MODEL.WEIGHTS": first / "model_final.pth"})
        return trained(model, config, seed, folder, given)

    jobs = [("student alone", seed) for seed in arguments.alone]
    jobs += [(name, seed) for seed in arguments.seeds for name in chosen]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows += list(pool.map(lambda job: student(*job), jobs))
    # The classifiers' teacher retrieves nothing.
    rows = [row for row in rows if set(task.measures) <= set(row)]
    for row in rows:
        del row["minutes"]  # of jobs side by side, with stages or without; costs.py measures time
    results = arguments.results or ROOT / f"benchmarks/results/methods_{arguments.task}.csv"
    write(results, list(task.measures), merged(results, rows))


def weights(task: Task, distill: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Options that give every teacher of a config its weights: all but the main one have the second seed's."""
    options: dict[str, Any] = {}
    for name in sorted({task.main_teacher, *distill.get("TEACHERS", ())}):
        seed = "teacher" if name == task.main_teacher else "teacher_seed1"
        options[f"DISTILL.TEACHERS.{name}.CONFIG"] = task.teacher
        options[f"DISTILL.TEACHERS.{name}.WEIGHTS"] = folder / seed / "model_final.pth"
    return options


def flat(options: Options) -> list[str]:
    """Return ``[KEY, value, ...]`` as a command line has it."""
    return [str(x) for item in options.items() for x in item]


if __name__ == "__main__":
    main()
