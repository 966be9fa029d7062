"""Run a recipe: trainings that each start from files of earlier ones, then a table, a picture, an export.

    python tools/run_recipe.py RECIPE [--output FOLDER] [--from STEP] [--num-gpus N] [KEY VALUE ...]

Run the same command again after an interruption: finished steps are skipped, the interrupted one goes on from
its last checkpoint. A step whose options changed since it ran is run again. So try a recipe out in a folder of its own:

    python tools/run_recipe.py RECIPE --output output/trial SOLVER.MAX_ITER 20 SOLVER.STEPS "()"
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence

from det_distill.cli.helping import CommandParser, command_parser
from det_distill.recipes import StepFailed, load_recipe, run_recipe, write_report
from det_distill.recipes.runner import duration


def parser(program: str = "run_recipe.py") -> CommandParser:
    """Return the command line."""
    p = command_parser(
        program,
        "Run a recipe: a YAML list of trainings in which later ones start from the files of earlier ones, such as a "
        "teacher, its paraphraser, the student alone and the distilled student. At the end it prints a table that "
        "compares them, draws what they find and exports the student, as far as the recipe asks for these.\n\n"
        "Run the same command again after an interruption: finished steps are skipped, the interrupted one goes on "
        "from its last checkpoint. A step whose options changed since it ran is run again, so try a recipe out in a "
        "folder of its own, with --output.",
        "demo/recipe.yaml",
        "demo/recipe.yaml --output output/trial SOLVER.MAX_ITER 20 SOLVER.STEPS '()'",
        usage=f"{program} [-h] [--output FOLDER] [--from STEP] [--num-gpus N] RECIPE [KEY VALUE ...]",
    )
    what = p.add_argument_group("what to run")
    what.add_argument(
        "recipe", metavar="RECIPE", help="a YAML file, or its name below configs/ (demo/recipe.yaml)"
    )
    what.add_argument(
        "opts",
        metavar="KEY VALUE",
        nargs="*",
        help="options for every step, behind its own, as in a short trial: SOLVER.MAX_ITER 20 SOLVER.STEPS '()'; a "
        "step whose options changed since it ran is run again, so set --output too",
    )
    what.add_argument(
        "--from",
        dest="restart_from",
        metavar="STEP",
        help="run STEP again from scratch, and every step that starts from its files",
    )
    where = p.add_argument_group("where")
    where.add_argument("--output", metavar="FOLDER", help="instead of the recipe's own output folder")
    where.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="for each step; default: 1, or the CPU"
    )
    return p


def arguments(line: Sequence[str] | None = None, program: str = "run_recipe.py") -> argparse.Namespace:
    """Return what a command line says (None: this process's); KEY VALUE may come before and behind ``--`` options."""
    return parser(program).parse_intermixed_args(line)


def main(line: Sequence[str] | None = None, program: str = "run_recipe.py") -> None:
    """Run the steps, then write the report."""
    args = arguments(line, program)
    for name in ("det_distill", "detectron2"):
        logging.getLogger(name).setLevel(logging.ERROR)  # the rest is in the steps' own logs
    start = time.monotonic()
    recipe = load_recipe(args.recipe, args.output, args.opts)
    train = [sys.executable, "-m", "det_distill.cli.train", "--num-gpus", str(args.num_gpus)]
    configs = run_recipe(recipe, train, restart_from=args.restart_from, say=_say)
    write_report(recipe, configs, say=_say)
    _say(f"\nAll done in {duration(time.monotonic() - start)}.")


def _say(line: str) -> None:
    print(line, flush=True)


ERRORS = (StepFailed, ValueError, OSError)
INTERRUPTED = "Interrupted. Run the same command again to continue where it stopped."
