"""Time a distilled training step beside the plain student's step and the teacher's forward pass, in one run.

    python tools/benchmark.py --config-file CONFIG [--size H W] [--random-weights] [KEY VALUE ...]
    python tools/benchmark.py --data --config-file CONFIG [--loader workers memory] [--iterations N] [KEY VALUE ...]
    python tools/benchmark.py --evaluation [--images 5000] [--classes 20]

What the ratio distilled / (plain + teacher) has above 1 is the cost of adapters, losses and taps. With --data: images
per second of the training loader, of training on batches that lie ready, and of both together, and the share of time
spent waiting for data; with or without a teacher. The learning rate is 0, and every pair counts from the start. With
--evaluation: detectron2's PASCAL VOC evaluator beside ours on a synthetic set; their numbers must be equal.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from det_distill.benchmark import (
    Report,
    Steps,
    Throughput,
    data_batches,
    measure_throughput,
    peak_memory,
    synthetic_batches,
    with_random_weights,
)
from det_distill.benchmark.evaluation import EvaluationReport, measure_evaluation
from det_distill.cli.helping import add_overrides, command_parser
from det_distill.engine import load_config


def parser(program: str = "benchmark.py") -> argparse.ArgumentParser:
    """Return the command line."""
    p = command_parser(
        program,
        "Measure what distillation costs on this machine: a distilled training step beside the plain student's step "
        "and the teacher's forward pass, taken in turns in one run. What the ratio distilled / (plain + teacher) has "
        "above 1 is the cost of adapters, losses and taps. The learning rate is 0, and every pair counts from the "
        "start.\n\nWith --data instead: images per second of the training loader, of training on batches that lie "
        "ready, and of both together, with or without a teacher. With --evaluation: detectron2's PASCAL VOC evaluator "
        "beside det_distill's on a synthetic set; their numbers must be equal.",
        "--config-file demo/student.yaml --random-weights --size 320 320",
        "--data --config-file demo/teacher.yaml --iterations 20",
        "--evaluation --images 1000",
        usage=f"{program} [-h] [--data | --evaluation] --config-file FILE [options] [KEY VALUE ...]",
    )
    what = p.add_argument_group("what is measured")
    step = p.add_argument_group("the training step")
    data = p.add_argument_group("with --data")
    sets = p.add_argument_group("with --evaluation")
    files = p.add_argument_group("files")
    what.add_argument(
        "--config-file", metavar="FILE", help="a distillation's config, or a zoo name; not with --evaluation"
    )
    step.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="synthetic images; default: own data"
    )
    step.add_argument("--batch", type=int, help="images in a batch; default: SOLVER.IMS_PER_BATCH")
    step.add_argument(
        "--iterations", type=int, default=10, help="repeats of every part (10), after some for warm-up"
    )
    what.add_argument("--data", action="store_true", help="measure the loader, and training with it")
    data.add_argument(
        "--loader",
        nargs="+",
        metavar="NAME",
        help="with --data, several in turn: memory, workers, workers:2; another option before KEY VALUE",
    )
    data.add_argument("--rounds", type=int, default=3, help="with --data, how often all is measured (3)")
    data.add_argument(
        "--warm-up", type=int, default=0, help="with --data, batches before the first round (0)"
    )
    what.add_argument("--evaluation", action="store_true", help="measure the evaluators of VOC data instead")
    sets.add_argument("--images", type=int, default=5000, help="with --evaluation, of the set (5000)")
    sets.add_argument("--classes", type=int, default=20, help="with --evaluation, of the set (20)")
    step.add_argument("--device", help="cpu, cuda, ...; default: MODEL.DEVICE")
    step.add_argument("--teacher-precision", help="auto, float32, bfloat16 or float16")
    step.add_argument(
        "--random-weights", action="store_true", help="need no files of teachers or paraphrasers"
    )
    step.add_argument(
        "--no-memory", action="store_true", help="skip peak memory, which takes processes of its own"
    )
    files.add_argument("--json", metavar="FILE", help="write everything that was measured")
    files.add_argument("--csv", metavar="FILE", help="write one row")
    add_overrides(p)
    return p


def main(arguments: Sequence[str] | None = None, program: str = "benchmark.py") -> None:
    """Measure, print, write."""
    args = parser(program).parse_args(arguments)
    report = _evaluation(args) if args.evaluation else _training(args)
    print(report.table())
    if args.json:
        report.write_json(args.json)
    if args.csv:
        report.write_csv(args.csv)


def _evaluation(args: argparse.Namespace) -> EvaluationReport:
    if args.config_file or args.data or args.opts:
        raise ValueError(
            "--evaluation measures a synthetic set: leave out --config-file, --data and KEY VALUE, "
            "or leave out --evaluation"
        )
    return measure_evaluation(args.images, args.classes, memory=not args.no_memory)


def _training(args: argparse.Namespace) -> Report | Throughput:
    if not args.config_file:
        raise ValueError("name a distillation with --config-file, or choose --evaluation, which needs none")
    if args.iterations < 1:
        raise ValueError(f"--iterations {args.iterations}: must be at least 1")
    cfg = _config(args)
    with tempfile.TemporaryDirectory() as folder:
        if args.random_weights:
            cfg = with_random_weights(cfg, Path(folder))
        return _throughput(cfg, args) if args.data else _measure(cfg, args)


def _config(args: argparse.Namespace) -> CfgNode:
    chosen = {
        "MODEL.DEVICE": args.device,
        "DISTILL.TEACHER_PRECISION": args.teacher_precision,
        "SOLVER.IMS_PER_BATCH": args.batch,
    }
    pairs = [x for key, value in chosen.items() if value is not None for x in (key, value)]
    return load_config(args.config_file, [*args.opts, *pairs])


def _measure(cfg: CfgNode, args: argparse.Namespace) -> Report:
    images = cfg.SOLVER.IMS_PER_BATCH
    batches = synthetic_batches(cfg, args.size[0], args.size[1], images) if args.size else data_batches(cfg)
    steps = Steps(cfg, batches)
    seconds = steps.measure(args.iterations)
    inputs = {"teacher": steps.teacher_inputs()}
    sizes = steps.teacher_bytes(), steps.tapped_bytes()
    setting = _setting(cfg, args, steps.distiller.device)
    del steps  # leaves the device's memory to the processes that measure it
    parts = () if args.no_memory else ("plain", "teacher", "distilled")
    peaks = {part: peak_memory(cfg, part, batches[0], inputs.get(part)) for part in parts}
    return Report(setting, seconds, peaks, *sizes)


def _throughput(cfg: CfgNode, args: argparse.Namespace) -> Throughput:
    if args.size:
        raise ValueError("--size is for images of noise, --data measures those of DATASETS.TRAIN: choose one")
    rounds = measure_throughput(
        cfg, args.loader or (), iterations=args.iterations, rounds=args.rounds, warm_up=args.warm_up
    )
    setting = {**_setting(cfg, args, torch.device(cfg.MODEL.DEVICE)), "rounds": args.rounds}
    return Throughput({**setting, "workers": cfg.DATALOADER.NUM_WORKERS}, rounds)


def _setting(cfg: CfgNode, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    return {
        "config": args.config_file,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "images": cfg.SOLVER.IMS_PER_BATCH,
        "size": "x".join(map(str, args.size)) if args.size else "own data",
        "teacher precision": cfg.DISTILL.TEACHER_PRECISION,
        "repeats": args.iterations,
    }
