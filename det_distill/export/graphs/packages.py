"""The packages of the extra ``det_distill[export]``, and exporters without their chatter."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from types import ModuleType

from ..check import DoesNotFit

__all__ = ["quiet", "required"]

_EXTRA = "pip install 'det_distill[export]'"


def required(*names: str) -> list[ModuleType]:
    """Import packages that not everyone has.

    Raises:
        DoesNotFit: one is missing; says how to install it.
    """
    found, missing = [], []
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except ImportError:
            missing.append(name.split(".")[0])
    if missing:
        raise DoesNotFit(f"this format needs the package {', '.join(missing)}: {_EXTRA}")
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters print, warn and log to themselves; what they raise comes through."""
    before = logging.root.manager.disable
    nothing = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
