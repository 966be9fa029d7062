#!/usr/bin/env python
"""Train, resume or evaluate a config: a detector, a distilled detector, or a teacher's paraphrasers.

    python tools/train_net.py --config-file CONFIG [--resume] [--eval-only] [--num-gpus N] [KEY VALUE ...]

The options are those of detectron2's own tools/train_net.py. Processes are started by --num-gpus, or by torchrun:

    torchrun --nproc-per-node N tools/train_net.py --config-file CONFIG [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from det_distill.checkpoint import StudentCheckpointer
from det_distill.data.problems import DatasetError
from det_distill.engine import Trainer, setup
from det_distill.hooks import measure_before_testing
from det_distill.launch import LaunchError, launch
from det_distill.training_checks import check_weights


def main(args: argparse.Namespace) -> Any:
    """Run in each process."""
    try:
        run = _evaluation(args) if args.eval_only else _training(args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"train_net.py: {error}")
    try:
        return run()
    except DatasetError as error:  # an image that cannot be read shows when its turn comes
        sys.exit(f"train_net.py: {error}")


def _evaluation(args: argparse.Namespace) -> Callable[[], Any]:
    cfg = setup(args)
    model = Trainer.build_model(cfg)
    checkpointer = StudentCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
    if args.resume and not checkpointer.has_checkpoint():
        raise FileNotFoundError(
            f"--eval-only --resume measures the last checkpoint of OUTPUT_DIR, and {cfg.OUTPUT_DIR!r} has none that "
            "can be read: name the trained file in MODEL.WEIGHTS, without --resume"
        )
    if not args.resume and not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "--eval-only would measure random weights: name the trained file in MODEL.WEIGHTS, or add --resume for the "
            f"last checkpoint of OUTPUT_DIR, {cfg.OUTPUT_DIR!r}"
        )
    if not args.resume:
        check_weights(cfg)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)

    def run() -> Any:
        measure_before_testing(cfg, model, Trainer.test)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results

    return run


def _training(args: argparse.Namespace) -> Callable[[], Any]:
    trainer = Trainer(setup(args))
    trainer.resume_or_load(resume=args.resume)
    return trainer.train


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    if not arguments.config_file:
        sys.exit("train_net.py: --config-file is missing: name a YAML file or a config of the model zoo")
    try:
        launch(main, arguments)
    except LaunchError as error:
        sys.exit(f"train_net.py: {error}")
