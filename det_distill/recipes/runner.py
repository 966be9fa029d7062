"""Runs the steps of a recipe, each in a process of its own; finished steps are skipped."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode

from .. import model_zoo
from ..data.catalog import dataset_folder
from ..data.demo import prepare_demo_tiles
from ..engine import load_config
from ..evaluation.comparison import outcome, recorded_results
from ..tasks import task_of
from .recipe import CHECKPOINT, Recipe, Step
from .state import StepState, exclusive, fingerprint, move_aside, read_state, write_state
from .subprocess_log import StepFailed, run_logged

__all__ = ["DATA", "check_configs", "duration", "run_recipe"]

DATA: Mapping[str, Callable[[Path], Path]] = {"tree_tiles": prepare_demo_tiles}
"""The demonstration sets that a recipe's ``data`` can name; each is made in the folder of the data sets."""

_TAIL = 25
_OPTIONS = "its options (the recipe's, and those of the command line)"


def check_configs(recipe: Recipe) -> dict[str, CfgNode]:
    """Return the config of every step, checked as far as that is possible before any of them has run.

    In them ``{step}`` is replaced by a path that does not exist and does not depend on the output folder.

    Raises:
        ValueError: a config is missing, or has unknown keys, methods or values; the message names the step.
    """
    if recipe.data is not None and recipe.data not in DATA:
        raise ValueError(f"{recipe.path}: data {recipe.data!r} is unknown; there is {', '.join(DATA)}")
    configs = {}
    for step in recipe.steps:
        try:
            configs[step.name] = cfg = load_config(
                step.config, step.arguments(Path("<output>")), where=_OPTIONS
            )
            for teacher in cfg.DISTILL.TEACHERS.values():
                if teacher.CONFIG:
                    model_zoo.find_config(teacher.CONFIG)
        except (ValueError, KeyError, AssertionError, OSError) as error:
            text = error.args[0] if isinstance(error, KeyError) else error
            raise ValueError(f"{recipe.path}: step {step.name}: {text}") from error
    _check_comparable(recipe, configs)
    return configs


def _check_comparable(recipe: Recipe, configs: Mapping[str, CfgNode]) -> None:
    tests = {name: tuple(configs[name].DATASETS.TEST) for name in recipe.compare.values()}
    if tests and (len(set(tests.values())) > 1 or len(next(iter(tests.values()))) != 1):
        raise ValueError(
            f"{recipe.path}: compare: the steps must have one and the same data set in DATASETS.TEST, not "
            + ", ".join(f"{list(sets)} ({name})" for name, sets in tests.items())
        )
    undrawn = [name for name in tests if not task_of(configs[name]).finds_boxes]
    if recipe.picture and undrawn:
        raise ValueError(
            f"{recipe.path}: picture: it shows the boxes that detectors find, and the models of "
            f"{', '.join(undrawn)} find none: leave it away"
        )


def run_recipe(
    recipe: Recipe,
    train_command: Sequence[str],
    *,
    restart_from: str | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, CfgNode]:
    """Run the steps of a recipe that are not finished yet.

    A step whose config or input files changed since it ran is run again from scratch; its old folder is moved
    to ``<output>/replaced``. A step that was interrupted goes on from its last readable checkpoint.

    Args:
        recipe: the recipe.
        train_command: how `det_distill.cli.train` is started.
        restart_from: run this step again from scratch, and every step that starts from its files.
        say: called with each line for the person at the console.

    Returns:
        The steps' configs with the paths of their files, by name.

    Raises:
        ValueError: the recipe, or a config of it, is wrong; nothing was trained.
        FileExistsError: a step's folder holds other files.
        BlockingIOError: another recipe is at work in the output folder.
        StepFailed: a step's process ended with an error.
    """
    # First: where a data set is looked up depends on where it is.
    if recipe.data is not None and recipe.data in DATA:
        say(f"Data: {DATA[recipe.data](dataset_folder())}")
    configs = check_configs(recipe)
    if restart_from is not None and restart_from not in configs:
        raise ValueError(f"there is no step {restart_from!r}; the steps are {', '.join(configs)}")
    with exclusive(recipe.output) as lock:
        for name in recipe.dependents(restart_from) if restart_from else ():
            if read_state(recipe.output / name) is not None:
                say(f"{name}: to be run again; its old files are now in {move_aside(recipe.output / name)}")
        for number, step in enumerate(recipe.steps, 1):
            title = f"[{number}/{len(recipe.steps)}] {step.name}"
            _run_step(recipe, step, configs[step.name], train_command, title=title, lock=lock, say=say)
    return {
        step.name: load_config(step.config, [*step.arguments(recipe.output), *_own_options(recipe, step)])
        for step in recipe.steps
    }


def _own_options(recipe: Recipe, step: Step) -> list[str]:
    return ["OUTPUT_DIR", str(recipe.output / step.name)]


def _run_step(
    recipe: Recipe,
    step: Step,
    cfg: CfgNode,
    train_command: Sequence[str],
    *,
    title: str,
    lock: int,
    say: Callable[[str], None],
) -> None:
    folder = recipe.output / step.name
    wanted = fingerprint(cfg, [recipe.output / name / CHECKPOINT for name in step.needs])
    state = read_state(folder)
    if state is not None and state.fingerprint != wanted:
        say(f"{title}: its config or its input changed; its old files are now in {move_aside(folder)}")
        state = None
    if state is not None and state.finished and (folder / CHECKPOINT).is_file():
        say(f"{title}: finished earlier, in {duration(state.seconds)}{_outcome(folder)}")
        return
    say(f"{title}: {'going on with' if state else 'running'} {step.config} in {folder}")
    write_state(folder, StepState(wanted))
    start = time.monotonic()
    _train(recipe, step, train_command, lock)
    seconds = time.monotonic() - start
    write_state(folder, StepState(wanted, finished=True, seconds=seconds))
    say(f"      done in {duration(seconds)}{_outcome(folder)}")


def _train(recipe: Recipe, step: Step, train_command: Sequence[str], lock: int) -> None:
    """Run the trainer to its end.

    Raises:
        StepFailed: it ended with an error, or without the step's checkpoint.
    """
    folder = recipe.output / step.name
    alone = [*train_command, "--config-file", step.config, "--resume"]
    alone += [*step.arguments(recipe.output), *_own_options(recipe, step)]
    log = folder / "console.log"
    status = run_logged([*alone, "PROGRESS_BAR", "on"], log, keep=(lock,))
    if status or not (folder / CHECKPOINT).is_file():
        lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
        why = f"with status {status}" if status >= 0 else f"killed by signal {-status}"
        raise StepFailed(
            "\n".join(
                [
                    f"Step {step.name} ended {why}{'' if status else f', but without {CHECKPOINT}'}. "
                    f"The last lines of {log}:",
                    *(f"  | {line}" for line in lines),
                    "To run this step alone:",
                    f"  {shlex.join(alone)}",
                ]
            )
        )


def _outcome(folder: Path) -> str:
    """What a step reached, for its line on the console."""
    reached = outcome(recorded_results(folder))
    return f", {reached}" if reached else ""


def duration(seconds: float) -> str:
    """Return "45 s", "2 min 05 s" or "1 h 03 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
