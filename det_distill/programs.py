"""Files that are programs: whoever names one is told, where it cannot be overlooked, that it runs."""

from __future__ import annotations

import functools
import logging
import sys

__all__ = ["tell_program"]

logger = logging.getLogger(__name__)


@functools.cache
def tell_program(file: str, what: str) -> None:
    """Warn, once in a process, that a file is a program and is run.

    Commands that mute warnings in their logs do not mute this one: it then goes to standard error.

    Args:
        file: its name.
        what: what it is, and what is done with it: "the CONFIG of teacher 'a', is a program and is run now".
    """
    if logger.isEnabledFor(logging.WARNING):
        logger.warning("%s, %s", file, what)
    else:
        print(
            f"warning: {file}, {what}".encode(errors="backslashreplace").decode(), file=sys.stderr, flush=True
        )
