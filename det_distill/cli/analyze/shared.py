"""Options that several reports have."""

from __future__ import annotations

import argparse
import math

from detectron2.config import CfgNode

from ...engine import load_config

__all__ = ["batch_options", "check_numbers", "config", "last_options"]

_LEAST = {"iterations": 1, "batches": 1, "batch": 1, "seed": 0, "photos": 0, "seconds": 0}


def batch_options(parser: argparse.ArgumentParser, data: str) -> None:
    """Add the options of the reports that look at batches; data: the config key of their default."""
    p = parser.add_argument_group("what they look at")
    p.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME",
        help=f"a data set of the config; once for each; default: {data}",
    )
    p.add_argument("--batch", type=int, help="images in a batch; default: SOLVER.IMS_PER_BATCH")
    p.add_argument("--seed", type=int, default=0, help="of the order of images and of what is drawn (0)")


def last_options(parser: argparse.ArgumentParser, folder: str, what: str) -> None:
    """Add the options of every report: device, output folder, overrides of the config."""
    p = parser.add_argument_group("where")
    p.add_argument("--device", help="cpu, cuda, ...; default: MODEL.DEVICE")
    p.add_argument(
        "--output",
        default=f"output/analysis/{folder}",
        metavar="FOLDER",
        help=f"for {what} (output/analysis/{folder})",
    )
    p.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")


def check_numbers(args: argparse.Namespace) -> None:
    """Raise a ValueError that names the option whose number makes no sense."""
    for name, number in vars(args).items():
        if name in _LEAST and number is not None and not number >= _LEAST[name]:
            raise ValueError(f"--{name} {number}: must be at least {_LEAST[name]}")
        if name in ("rate", "lr") and not (number > 0 and math.isfinite(number)):
            raise ValueError(f"--{name} {number:g}: must be above 0 and finite")
        if name == "threshold" and not 0 <= number <= 1:
            raise ValueError(f"--threshold {number:g}: scores are from 0 to 1")


def config(path: str, args: argparse.Namespace) -> CfgNode:
    """Load a config with what the command line says."""
    chosen = {"MODEL.DEVICE": args.device, "SOLVER.IMS_PER_BATCH": getattr(args, "batch", None)}
    pairs = [x for key, value in chosen.items() if value is not None for x in (key, value)]
    return load_config(path, [*args.opts, *pairs])
