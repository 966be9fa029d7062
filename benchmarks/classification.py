#!/usr/bin/env python
"""Train one classifier on CIFAR-10 alone and by the papers' methods, several seeds each, the same schedule for all.

    python benchmarks/classification.py R8-R20 --data FOLDER [--seeds 0 1 2] [--jobs 2] [--only FT KD]
    python benchmarks/classification.py R20-R56 --data FOLDER --device cuda --jobs 12 [--minutes 9]

FOLDER holds cifar10/train and cifar10/test, a folder of images per class. "R20-R56" is the pair of the papers, with
their 164 passes over the data: for a GPU. "R8-R20" is a pair that a CPU can train: in bfloat16, ten passes for the
teachers and two for the students. Learning rates fall tenfold after a half and three quarters of the passes; every
method has the weight of its config in configs/CIFAR-Classification/methods.

Paraphrasers, and the first stage of FSP, are trained before; both see the data for a fraction of the passes, as in
their papers. FEED learns from two teachers that differ by their seeds, the others from the first of them. Finished runs
are not repeated, interrupted ones go on from their last checkpoint: with --minutes a run that is not done by then
is stopped, and the next call continues. Every finished run becomes one row of benchmarks/results/classification_*.csv,
beside the rows that are there of other runs.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from methods import FSP, Options, flat
from runs import OutOfTime, merged, parser, run, train, write

CONFIGS = "CIFAR-Classification"
MEASURES = {
    "top-1": "classification/top1",
    "nll": "classification/nll",
    "ece": "classification/ece",
    "agreement": "classification/agreement-r56",
}
IMAGES, BATCH = 50_000, 128


@dataclass(frozen=True)
class Pair:
    """A student, its teachers and how long everything trains."""

    student: int  # depth of the ResNet
    teacher: int
    passes: int  # over the training images
    teacher_passes: int
    paraphraser_passes: int
    first_stage_passes: int
    options: Options = field(default_factory=dict)
    of_fsp: Options = field(default_factory=dict)


PAIRS = {
    # A stage of ResNet-8 has one block, too few for matrices inside stages, as the config has them: between them.
    "R8-R20": Pair(8, 20, 2, 10, 1, 1, {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.PRECISION": "bfloat16"}, FSP),
    # FSP's own schedule: 21,000 iterations of the first stage, 64,000 of the second.
    "R20-R56": Pair(20, 56, 164, 164, 6, 54),
}
FT, NO_PARAPHRASER = "DISTILL.PAIRS.ft.RATE", "DISTILL.PAIRS.ft.PARAPHRASER_KIND"
# Row of the table -> config in CIFAR-Classification/methods ("": the student alone), and further options.
STUDENTS: dict[str, tuple[str, Options]] = {
    "student alone": ("", {}),
    "KD": ("soft_target", {}),
    "AT": ("attention", {}),
    "FSP": ("fsp", {}),
    "FT": ("factor_transfer", {}),
    "FEED, 2 teachers": ("feed", {}),
    "FM, L2 + LSH": ("feature_mimicking", {}),
    "logits of the teacher": ("noisy_teacher", {"DISTILL.PAIRS.noisy.ALPHA": 0.0}),
    "noisy teacher": ("noisy_teacher", {}),
    "FT, k = 1": ("factor_transfer", {FT: 1.0}),
    "FT, no paraphraser": ("factor_transfer", {NO_PARAPHRASER: "none"}),
}


def schedule(passes: int) -> Options:
    """Options for so many passes over the training images, the learning rate falling at a half and three quarters."""
    iterations = passes * (IMAGES // BATCH)
    return {
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": f"({iterations // 2},{iterations * 3 // 4})",
        "SOLVER.CHECKPOINT_PERIOD": max(iterations // 20, 1),
        "TEST.EVAL_PERIOD": 0,
    }


def main() -> None:
    """Run everything that is not finished, as far as there is time, and write the results."""
    options = parser(__doc__, "output/classification", None)
    options.add_argument("pair", choices=PAIRS)
    options.add_argument("--only", nargs="+", choices=STUDENTS, default=list(STUDENTS), metavar="NAME")
    options.set_defaults(seeds=[0, 1, 2])
    arguments = options.parse_args()
    arguments.data = arguments.data.resolve()
    if not (arguments.data / "cifar10/train").is_dir():
        sys.exit(f"{arguments.data} has no cifar10/train: unpack the images there, a folder for each class")
    pair, output = PAIRS[arguments.pair], arguments.output.resolve() / arguments.pair
    results = arguments.results or Path(__file__).parent / f"results/classification_{arguments.pair}.csv"
    every = {"INPUT.CLASSIFICATION.LOADER": "memory", "SOLVER.WARMUP_ITERS": 100, **pair.options}
    common = {"MODEL.CIFAR_RESNET.DEPTH": pair.student, **every, **schedule(pair.passes)}
    trained = partial(run, arguments=arguments, measures=MEASURES)

    def teacher(seed: int) -> dict[str, Any]:
        given = {
            "SEED": seed,
            "MODEL.CIFAR_RESNET.DEPTH": pair.teacher,
            **every,
            **schedule(pair.teacher_passes),
        }
        folder, config = output / f"teacher_seed{seed}", f"{CONFIGS}/teacher_R{pair.teacher}.yaml"
        return trained("teacher", config, seed, folder, flat(given) + arguments.options)

    def student(name: str, seed: int) -> dict[str, Any]:
        method, own = STUDENTS[name]
        config, given = f"{CONFIGS}/methods/{method}.yaml", {"SEED": seed, **common, **own}
        folder = output / f"{name.replace(' ', '_').replace(',', '')}_seed{seed}"
        first = folder.with_name(f"{folder.name}_first")
        if not method:
            config = f"{CONFIGS}/student_R20.yaml"
            given["DISTILL.ENABLED"] = False
            return trained(name, config, seed, folder, flat(given) + arguments.options)
        for at, its in enumerate(["r56", "second"] if method == "feed" else ["r56"]):
            given[f"DISTILL.TEACHERS.{its}.CONFIG"] = f"{CONFIGS}/teacher_R{pair.teacher}.yaml"
            given[f"DISTILL.TEACHERS.{its}.WEIGHTS"] = output / f"teacher_seed{at}/model_final.pth"
        before: Options = {}
        if method == "factor_transfer" and NO_PARAPHRASER not in own:
            before = {"MODEL.META_ARCHITECTURE": "ParaphraserPretrainer", **schedule(pair.paraphraser_passes)}
            before |= {"SOLVER.STEPS": "()"}
            given["DISTILL.PAIRS.ft.PARAPHRASER"] = first / "model_final.pth"
        if method == "fsp":
            before = {**schedule(pair.first_stage_passes), **pair.of_fsp}
        if before:
            train(first, config, flat({**given, **before}) + arguments.options, arguments)
        if method == "fsp":
            config = f"{CONFIGS}/methods/fsp_second_stage.yaml"
            given = {"SEED": seed, **common, "MODEL.WEIGHTS": first / "model_final.pth"}
        return trained(name, config, seed, folder, flat(given) + arguments.options)

    def in_time(job: Any) -> dict[str, Any] | None:
        try:
            return job()
        except OutOfTime as error:
            print(error, flush=True)
            return None

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(in_time, [partial(teacher, seed) for seed in (0, 1)]))
        if all(rows):
            jobs = [partial(student, name, seed) for seed in arguments.seeds for name in arguments.only]
            rows += list(pool.map(in_time, jobs))
    finished = list(filter(None, rows))
    for row in finished:
        row.pop("minutes", None)  # of jobs side by side, with a step before or without
    models = ["teacher", *STUDENTS]
    known = [row for row in merged(results, finished) if row["model"] in models]
    if known:
        known.sort(key=lambda row: (models.index(row["model"]), int(row["seed"])))
        write(results, list(MEASURES), known)
    if len(finished) < len(rows):
        sys.exit(f"{len(rows) - len(finished)} runs are not finished: call again to go on")


if __name__ == "__main__":
    main()
