"""Train, resume or evaluate a config: a detector, a distilled detector, or a teacher's paraphrasers.

    python tools/train_net.py --config-file CONFIG [--resume] [--eval-only] [--num-gpus N] [KEY VALUE ...]

The options are those of detectron2's own tools/train_net.py. Processes are started by --num-gpus, or by torchrun:

    torchrun --nproc-per-node N tools/train_net.py --config-file CONFIG [KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from det_distill.cli.helping import CommandParser, add_overrides, command_parser
from det_distill.cli.running import run
from det_distill.data.problems import DatasetError
from det_distill.engine import Trainer, setup
from det_distill.hooks import measure_before_testing
from det_distill.launch import LaunchError, launch
from det_distill.measured_weights import MeasuredCheckpointer
from det_distill.training_checks import check_weights


def train(args: argparse.Namespace) -> Any:
    """Run in each process."""
    try:
        run = _evaluation(args) if args.eval_only else _training(args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"{args.program}: {error}")
    try:
        return run()
    except DatasetError as error:  # an image that cannot be read shows when its turn comes
        sys.exit(f"{args.program}: {error}")


def _evaluation(args: argparse.Namespace) -> Callable[[], Any]:
    cfg = setup(args)
    model = Trainer.build_model(cfg)
    checkpointer = MeasuredCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
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


def parser(program: str = "train_net.py") -> CommandParser:
    """Return the command line: the options and defaults of detectron2's, in groups."""
    p = command_parser(
        program,
        "Train what a config describes: a detector or a classifier alone, one that learns from teachers (a config with "
        "DISTILL.PAIRS), or the paraphrasers of a teacher. Checkpoints, the log and the results go to OUTPUT_DIR. The "
        "options are those of detectron2's own tools/train_net.py.",
        "--config-file demo/teacher.yaml OUTPUT_DIR output/mine SOLVER.MAX_ITER 1000",
        "--config-file demo/teacher.yaml --resume OUTPUT_DIR output/mine SOLVER.MAX_ITER 1000",
        epilog_more=_SEVERAL,
        usage=f"{program} [-h] --config-file FILE [options] [KEY VALUE ...]",
    )
    what = p.add_argument_group("what to do")
    what.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="a YAML file, or a name below configs/ or in detectron2's zoo",
    )
    what.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint in OUTPUT_DIR; from the beginning if there is none",
    )
    what.add_argument(
        "--eval-only",
        action="store_true",
        help="do not train: measure the weights of MODEL.WEIGHTS, or with --resume the last checkpoint",
    )
    several = p.add_argument_group("several processes")
    several.add_argument(
        "--num-gpus", type=int, default=1, help="GPUs of each machine, a process on each (1)"
    )
    several.add_argument("--num-machines", type=int, default=1, help="machines that train together (1)")
    several.add_argument("--machine-rank", type=int, default=0, help="the number of this machine, from 0 (0)")
    several.add_argument(
        "--dist-url",
        default=default_argument_parser().get_default("dist_url"),
        metavar="URL",
        help="where the processes meet; with several machines: tcp://HOST:PORT of the first",
    )
    add_overrides(p)
    return p


_SEVERAL = """Several processes on the CPU, or started by another launcher:
  torchrun --nproc-per-node 2 -m det_distill.cli.train --config-file FILE"""


def main(arguments: Sequence[str] | None = None, program: str = "train_net.py") -> None:
    """Start the processes.

    Raises:
        LaunchError: they cannot be started as asked for, or no config is named.
    """
    args = parser(program).parse_args(arguments)
    if not args.config_file:
        raise LaunchError("--config-file is missing: name a YAML file or a config of the model zoo")
    args.program = program
    launch(train, args)


ERRORS = (LaunchError,)
"""What is told without a traceback; what a run finds wrong with its config is told by `train`."""

INTERRUPTED = "Interrupted. The same command with --resume goes on from the last checkpoint."

if __name__ == "__main__":
    run(main, "train_net.py", ERRORS, INTERRUPTED)
