#!/usr/bin/env python
"""Look at what trained networks learned: two reports, each a table, a CSV and a picture.

    python tools/analyze.py reconstruction --network NAME=CONFIG:WEIGHTS ... --at ADDRESS [KEY VALUE ...]
    python tools/analyze.py directions --config-file CONFIG --student NAME=WEIGHTS ... [KEY VALUE ...]

reconstruction: how hard the features of finished networks are to reconstruct at one address (the analysis of FEED).
Where a training diverges, the others are reported, its errors are nan, and the exit status is 1.
directions: whether students have their teacher's directions, its lengths, or both, at the pairs of a distillation.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from tqdm import tqdm

from det_distill.analysis.batches import check_data, labelled_batches, shuffled_batches
from det_distill.analysis.directions import build_for_distances, load_student, measure
from det_distill.analysis.directions_report import Row, directions_text, draw_directions, write_directions
from det_distill.analysis.figures import new_figure
from det_distill.analysis.named import parse_networks, parse_students
from det_distill.analysis.reconstruction import curves_text, draw_curves, reconstruction_curve, write_curves
from det_distill.config import load_teacher
from det_distill.engine import load_config


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(prog="analyze.py", description=__doc__.split("\n")[0])
    reports = p.add_subparsers(required=True, metavar="REPORT", dest="report")
    _reconstruction_options(
        reports.add_parser(
            "reconstruction",
            help="how hard the features of finished networks are to reconstruct",
            description="Train the same auto-encoder on the features of each network, on the same batches, and compare "
            "the curves of its error. Writes reconstruction.csv and reconstruction.png.",
        )
    )
    _directions_options(
        reports.add_parser(
            "directions",
            help="whether students have their teacher's directions, its lengths, or both",
            description="Split the squared distance of student and teacher into the part of lengths and the part of "
            "directions. Writes directions.csv and directions.png.",
        )
    )
    return p


def _reconstruction_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--network",
        action="append",
        required=True,
        metavar="NAME=CONFIG:WEIGHTS",
        help="a trained detector or classifier; once for each",
    )
    p.add_argument("--at", required=True, metavar="ADDRESS", help="a feature map in all of them: backbone:p3")
    p.add_argument(
        "--config-file", metavar="FILE", help="says data, batch and image size; default: the first network's"
    )
    p.add_argument("--rate", type=float, default=0.5, help="code channels / feature channels (0.5)")
    p.add_argument("--p", type=int, default=1, choices=(1, 2), help="1: absolute error (default), 2: squared")
    p.add_argument("--iterations", type=int, default=500, help="of each training (500)")
    p.add_argument("--lr", type=float, default=0.1, help="learning rate, the same for all (0.1)")
    p.add_argument(
        "--scaled",
        action="store_true",
        help="train on the error divided by the features' spread, not on the raw one",
    )
    _shared_options(p, "DATASETS.TRAIN", "reconstruction")


def _directions_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--config-file", required=True, metavar="FILE", help="a distillation's config")
    p.add_argument(
        "--student",
        action="append",
        required=True,
        metavar="NAME=WEIGHTS",
        help="a checkpoint of the config's student, distilled or not; once for each",
    )
    p.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="compare here, without adapters, instead of at the config's pairs; once for each; STUDENT=TEACHER "
        "where the addresses differ",
    )
    p.add_argument("--teacher", default="", metavar="NAME", help="with --at: which of several teachers")
    p.add_argument("--batches", type=int, default=20, help="how many batches are looked at (20)")
    _shared_options(p, "DATASETS.TEST", "directions")


def _shared_options(p: argparse.ArgumentParser, data: str, folder: str) -> None:
    p.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a data set of the config; once for each; default: {data}",
    )
    p.add_argument("--batch", type=int, help="images in a batch; default: SOLVER.IMS_PER_BATCH")
    p.add_argument("--seed", type=int, default=0, help="of the order of images and of what is drawn (0)")
    p.add_argument("--device", help="cpu, cuda, ...; default: MODEL.DEVICE")
    p.add_argument(
        "--output",
        default=f"output/analysis/{folder}",
        metavar="FOLDER",
        help=f"for the CSV and the picture (output/analysis/{folder})",
    )
    p.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one report: print it, write it."""
    args = parser().parse_args(arguments)
    _check_numbers(args)
    new_figure(1, 1)  # matplotlib's absence is to be known now, not after the work
    for logger in ("detectron2", "fvcore"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    {"reconstruction": _reconstruction, "directions": _directions}[args.report](args)


def _check_numbers(args: argparse.Namespace) -> None:
    """Raise a ValueError that names the option whose number makes no sense."""
    least = {"iterations": 1, "batches": 1, "batch": 1, "seed": 0}
    for name, number in vars(args).items():
        if name in least and number is not None and number < least[name]:
            raise ValueError(f"--{name} {number}: must be at least {least[name]}")
        if name in ("rate", "lr") and not (number > 0 and math.isfinite(number)):
            raise ValueError(f"--{name} {number:g}: must be above 0 and finite")


def _reconstruction(args: argparse.Namespace) -> None:
    networks = parse_networks(args.network)
    cfg = _config(args.config_file or networks[0].config, args)
    data = check_data(cfg, args.data or cfg.DATASETS.TRAIN)
    curves = []
    for network in networks:
        model = load_teacher(network.config, network.weights, device=cfg.MODEL.DEVICE, name=network.name)
        batches = shuffled_batches(cfg, data, args.iterations, seed=args.seed)
        curve = reconstruction_curve(
            network.name,
            model,
            args.at,
            tqdm(batches, desc=network.name, unit="it", disable=None),
            rate=args.rate,
            p=args.p,
            lr=args.lr,
            scaled=args.scaled,
            seed=args.seed,
            input_format=cfg.INPUT.FORMAT,
        )
        curves.append(curve)
    print(curves_text(curves))
    folder = Path(args.output)
    files = write_curves(curves, folder / "reconstruction.csv"), folder / "reconstruction.png"
    draw_curves(curves, files[1], address=args.at, p=args.p)
    print(f"Wrote {files[0]} and {files[1]}")
    diverged = [curve.network for curve in curves if curve.diverged]
    if diverged:
        raise ValueError(
            f"the training of the auto-encoder diverged for {', '.join(diverged)} ({len(diverged)} of {len(curves)}); "
            f"the other networks' results are kept. Lower the learning rate (--lr, now {args.lr:g}) or train on the "
            "scaled error (--scaled), for all networks alike"
        )


def _directions(args: argparse.Namespace) -> None:
    students = parse_students(args.student)
    cfg = _config(args.config_file, args)
    data = check_data(cfg, args.data or cfg.DATASETS.TEST or cfg.DATASETS.TRAIN)
    model, labels = build_for_distances(cfg, args.at, args.teacher)
    rows = []
    for student, weights in students.items():
        load_student(model, student, weights)
        batches = labelled_batches(cfg, data, args.batches, seed=args.seed)
        distances = measure(
            model, tqdm(batches, desc=student, total=args.batches, disable=None), seed=args.seed
        )
        rows += [Row(student, labels[pair], distance) for pair, distance in distances.items()]
    rows.sort(key=lambda row: list(labels.values()).index(row.pair))  # stable: students stay in their order
    print(directions_text(rows))
    folder = Path(args.output)
    files = write_directions(rows, folder / "directions.csv"), folder / "directions.png"
    draw_directions(rows, files[1])
    print(f"Wrote {files[0]} and {files[1]}")


def _config(path: str, args: argparse.Namespace) -> CfgNode:
    chosen = {"MODEL.DEVICE": args.device, "SOLVER.IMS_PER_BATCH": args.batch}
    pairs = [x for key, value in chosen.items() if value is not None for x in (key, value)]
    return load_config(path, [*args.opts, *pairs])


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, ImportError, KeyError, ValueError, OSError, RuntimeError) as error:
        sys.exit(f"analyze.py: {error.args[0] if isinstance(error, KeyError) else error}")
