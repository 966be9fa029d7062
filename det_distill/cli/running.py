"""A command from start to end: what a person did wrong is told in one line, and is the exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["COMMON_ERRORS", "INTERRUPTED", "run"]

COMMON_ERRORS: tuple[type[Exception], ...] = (
    AssertionError,
    ImportError,
    KeyError,
    ValueError,
    OSError,
    RuntimeError,
)
"""What detectron2, torch and this package raise for a config, a file or an option that is wrong."""

INTERRUPTED = "Interrupted."
_STATUS_OF_CTRL_C = 130


def run(
    main: Callable[[], Any],
    program: str,
    errors: tuple[type[Exception], ...] = COMMON_ERRORS,
    interrupted: str = INTERRUPTED,
) -> Any:
    """Call `main` and return its value; if it raises one of `errors`, leave with one line and no traceback.

    Args:
        main: does the work.
        program: as the person called it: ``train_net.py``, ``det-distill train``.
        errors: the others keep their traceback, they are nobody's input.
        interrupted: what to say after Ctrl-C.

    Raises:
        SystemExit: with the line ``<program>: <what is wrong>``, for status 1; after Ctrl-C with status 130, as shells
            expect it.
    """
    try:
        return main()
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        sys.exit(_STATUS_OF_CTRL_C)
    except errors as error:
        sys.exit(f"{program}: {error.args[0] if isinstance(error, KeyError) and error.args else error}")
