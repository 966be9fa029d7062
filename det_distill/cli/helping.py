"""How a command explains itself: what it is for, an example, its options in groups; one line for a wrong word."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any, NoReturn

__all__ = ["CommandParser", "add_overrides", "command_parser"]

_WIDTH = 100


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` that ends at a wrong option with one line and status 2, without printing its usage."""

    def error(self, message: str) -> NoReturn:
        """End with one line that says where the options are listed."""
        self.exit(2, f"{self.prog}: {message} ('{self.prog} --help' lists the options)\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return what the words say; an option that is given an empty text, as by an unset variable, is an error."""
        found, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            value = getattr(found, action.dest, None)
            given = value if isinstance(value, list) else [value]
            if not action.option_strings or action.dest == "opts":  # a key of the config may be empty
                continue
            if "" in given and value != action.default:
                self.error(f"{action.option_strings[-1]} is empty: name something, or leave it away")
        return found, rest


def command_parser(
    program: str, purpose: str, *examples: str, epilog_more: str = "", **options: Any
) -> CommandParser:
    """Return an empty parser whose help begins with what the command is for and ends with examples.

    Args:
        program: as the person called it: ``train_net.py``, ``det-distill train``.
        purpose: one paragraph for somebody who does not know the command; blank lines separate several.
        examples: what follows the program's name in a command line that works.
        epilog_more: follows the examples.
        options: of `ArgumentParser`.
    """
    paragraphs = [textwrap.fill(" ".join(p.split()), _WIDTH) for p in purpose.split("\n\n")]
    lines = "\n".join(f"  {program} {example}" for example in examples)
    title = "examples" if len(examples) > 1 else "example"
    return CommandParser(
        prog=program,
        description="\n\n".join(paragraphs),
        epilog="\n\n".join(filter(None, [f"{title}:\n{lines}", epilog_more])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add what all commands take behind their options: KEY VALUE pairs that override the config."""
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="keys of the config with other values, behind all options: SOLVER.BASE_LR 0.01 MODEL.DEVICE cpu",
    )
