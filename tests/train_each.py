"""Trains one config after another in the processes that torchrun has started; not a test, but started by some.

    torchrun --nproc-per-node 2 tests/train_each.py FILE

FILE is JSON: a list of command lines of tools/train_net.py, each a list of words.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from detectron2.engine import default_argument_parser

from det_distill.cli.train import train
from det_distill.launch import launch


def train_each(lines: list[list[str]]) -> list[Any]:
    """Train, or measure, what each command line says; return what the tool's function returns for each."""
    parser = default_argument_parser()
    return [train(parser.parse_args(line, argparse.Namespace(program="train_net.py"))) for line in lines]


def _train_those_of(arguments: argparse.Namespace) -> None:
    train_each(json.loads(Path(arguments.config_file).read_text()))


if __name__ == "__main__":
    launch(_train_those_of, default_argument_parser().parse_args(["--config-file", sys.argv[1]]))
