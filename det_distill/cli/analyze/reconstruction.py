"""How hard the features of finished networks are to reconstruct."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from ...analysis.batches import check_data, shuffled_batches
from ...analysis.figures import new_figure
from ...analysis.named import parse_networks
from ...analysis.reconstruction import curves_text, draw_curves, reconstruction_curve, write_curves
from ...config import load_teacher
from .shared import batch_options, config, last_options

HELP = "how hard the features of finished networks are to reconstruct"
DESCRIPTION = (
    "Train the same auto-encoder on the features of each network, on the same batches, and compare "
    "the curves of its error. Writes reconstruction.csv and reconstruction.png."
)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the report."""
    p = parser.add_argument_group("what is compared")
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
    p = parser.add_argument_group("the auto-encoder")
    p.add_argument("--rate", type=float, default=0.5, help="code channels / feature channels (0.5)")
    p.add_argument("--p", type=int, default=1, choices=(1, 2), help="1: absolute error (default), 2: squared")
    p.add_argument("--iterations", type=int, default=500, help="of each training (500)")
    p.add_argument("--lr", type=float, default=0.1, help="learning rate, the same for all (0.1)")
    p.add_argument(
        "--scaled",
        action="store_true",
        help="train on the error divided by the features' spread, not on the raw one",
    )
    batch_options(parser, "DATASETS.TRAIN")
    last_options(parser, "reconstruction", "the CSV and the picture")


def main(args: argparse.Namespace) -> None:
    """Print and write the report."""
    new_figure(1, 1)  # matplotlib's absence is to be known now, not after the work
    networks = parse_networks(args.network)
    cfg = config(args.config_file or networks[0].config, args)
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
