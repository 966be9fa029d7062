#!/usr/bin/env python
"""Time a distilled training step beside the plain student's step and the teacher's forward pass, in one run.

    python tools/benchmark.py --config-file CONFIG [--size H W] [--random-weights] [KEY VALUE ...]
    python tools/benchmark.py --data --config-file CONFIG [--loader workers memory] [--iterations N] [KEY VALUE ...]

What the ratio distilled / (plain + teacher) has above 1 is the cost of adapters, losses and taps. With --data: images
per second of the training loader, of training on batches that lie ready, and of both together, and the share of time
spent waiting for data; with or without a teacher. The learning rate is 0, and every pair counts from the start.
"""

from __future__ import annotations

import argparse
import sys
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
from det_distill.engine import load_config


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(prog="benchmark.py", description=__doc__.split("\n")[0])
    p.add_argument(
        "--config-file", required=True, metavar="FILE", help="a distillation's config, or a zoo name"
    )
    p.add_argument(
        "--size", nargs=2, type=int, metavar=("H", "W"), help="synthetic images; default: own data"
    )
    p.add_argument("--batch", type=int, help="images in a batch; default: SOLVER.IMS_PER_BATCH")
    p.add_argument(
        "--iterations", type=int, default=10, help="repeats of every part (10), after some for warm-up"
    )
    p.add_argument("--data", action="store_true", help="measure the loader, and training with it")
    p.add_argument(
        "--loader",
        nargs="+",
        metavar="NAME",
        help="with --data, several in turn: memory, workers, workers:2; another option before KEY VALUE",
    )
    p.add_argument("--rounds", type=int, default=3, help="with --data, how often all is measured (3)")
    p.add_argument("--warm-up", type=int, default=0, help="with --data, batches before the first round (0)")
    p.add_argument("--device", help="cpu, cuda, ...; default: MODEL.DEVICE")
    p.add_argument("--teacher-precision", help="auto, float32, bfloat16 or float16")
    p.add_argument("--random-weights", action="store_true", help="need no files of teachers or paraphrasers")
    p.add_argument(
        "--no-memory", action="store_true", help="skip peak memory, which takes three more processes"
    )
    p.add_argument("--json", metavar="FILE", help="write everything that was measured")
    p.add_argument("--csv", metavar="FILE", help="write one row")
    p.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return p


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    args = parser().parse_args(arguments)
    if args.iterations < 1:
        raise ValueError(f"--iterations {args.iterations}: must be at least 1")
    cfg = _config(args)
    with tempfile.TemporaryDirectory() as folder:
        if args.random_weights:
            cfg = with_random_weights(cfg, Path(folder))
        report = _throughput(cfg, args) if args.data else _measure(cfg, args)
    print(report.table())
    if args.json:
        report.write_json(args.json)
    if args.csv:
        report.write_csv(args.csv)


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


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, KeyError, ValueError, OSError, RuntimeError) as error:
        sys.exit(f"benchmark.py: {error.args[0] if isinstance(error, KeyError) else error}")
