"""`det-distill`: one console command for everything that the files in ``tools/`` do."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .helping import CommandParser
from .running import COMMON_ERRORS, INTERRUPTED, run

__all__ = ["COMMANDS", "Command", "main"]


@dataclass(frozen=True)
class Command:
    """One word after ``det-distill``.

    Attributes:
        module: below ``det_distill.cli``; imported when the command is called.
        help: one line for the list of commands.
        stage: the heading below which it is listed.
    """

    module: str
    help: str
    stage: str


_BEFORE, _TRAIN, _LOOK, _LEAVE = (
    "before a training",
    "training",
    "looking at what came out",
    "taking the student away",
)
COMMANDS = {
    "import-backbone": Command(
        "import_backbone", "make a start for training from torchvision's, timm's or other weights", _BEFORE
    ),
    "teacher-check": Command(
        "teacher_check", "see whether the teachers of a config fit its student", _BEFORE
    ),
    "train": Command(
        "train", "train a detector or classifier, distilled or not, or resume a training", _TRAIN
    ),
    "recipe": Command(
        "recipe", "run a list of trainings that build on each other, then compare them", _TRAIN
    ),
    "eval": Command(
        "evaluate", "measure trained weights, or finished detections, by COCO and VOC rules", _LOOK
    ),
    "predict": Command("predict", "find objects in photos, folders or videos, and draw them", _LOOK),
    "analyze": Command("analyze", "compare what trained networks learned and what they find", _LOOK),
    "export": Command("export", "write the student in the formats that its next home needs", _LEAVE),
    "benchmark": Command("benchmark", "time a distilled training step, the data, the evaluation", _LEAVE),
}
"""Every command, in the order of a person's work, which is that of the list of ``det-distill --help``."""


class _Version(argparse.Action):
    """Prints what is installed; looks it up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from .versions import versions_text

        print(versions_text())
        parser.exit()


def parser() -> CommandParser:
    """Return the command line up to the command."""
    width = max(map(len, COMMANDS)) + 2
    listed: dict[str, list[str]] = {}
    for name, command in COMMANDS.items():
        listed.setdefault(command.stage, []).append(f"  {name:{width}}{command.help}")
    commands = "\n\n".join("\n".join([f"{stage}:", *lines]) for stage, lines in listed.items())
    p = CommandParser(
        prog="det-distill",
        usage="det-distill COMMAND [options]",
        description="Shrink object detectors: distil a large detectron2 detector into a small one that is nearly as\n"
        "good. The commands, in the order in which they are mostly needed:\n\n" + commands,
        epilog="'det-distill COMMAND --help' says what a command is for and lists its options. A first try, which\n"
        "needs no data of your own and no GPU:\n  det-distill recipe demo/recipe.yaml",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--version",
        action=_Version,
        nargs=0,
        help="show the versions of det_distill, torch, detectron2 and of what can be installed beside them",
    )
    return p


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what is wrong with its input is told in one line, and is the exit status.

    Raises:
        SystemExit: status 2: no command, an unknown one or an unknown option; else see `run`.
    """
    line = list(sys.argv[1:] if arguments is None else arguments)
    if not line:
        parser().print_help(sys.stderr)
        sys.exit(2)
    name, *words = line
    if name.startswith("-"):
        parser().parse_args(line[:1])
    elif name not in COMMANDS:
        near = difflib.get_close_matches(name, [*COMMANDS], n=1, cutoff=0.5)
        meant = f" (did you mean {near[0]}?)" if near else ""
        parser().exit(
            2, f"det-distill: there is no command {name!r}{meant}; there are {', '.join(COMMANDS)}\n"
        )
    else:
        _run(name, words)


def _run(name: str, words: Sequence[str]) -> None:
    program = f"det-distill {name}"
    module = run(lambda: importlib.import_module(f"{__package__}.{COMMANDS[name].module}"), program)
    run(
        lambda: module.main(words, program),
        program,
        getattr(module, "ERRORS", COMMON_ERRORS),
        getattr(module, "INTERRUPTED", INTERRUPTED),
    )


if __name__ == "__main__":
    main()
