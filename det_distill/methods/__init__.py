"""The list of methods: name -> adapters and loss, one function per method.

A method is a function of the two sides and keyword options. Its options are the pair's options in a config, in upper
case: ``RATE: 0.5`` is ``rate=0.5``. To add a method, write a function in a file of this folder and name it in
`METHODS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from .factor import factor_transfer
from .mimic import feature_mimicking
from .sides import Parts, Side, channel_adapter

__all__ = ["METHODS", "Parts", "Side", "channel_adapter", "method_options"]

METHODS: dict[str, Callable[..., Parts]] = {
    "FactorTransfer": factor_transfer,
    "FeatureMimicking": feature_mimicking,
}


def method_options(name: str) -> dict[str, object]:
    """Return a method's options and their defaults.

    Raises:
        ValueError: an unknown method; the message lists the known ones.
    """
    if name not in METHODS:
        raise ValueError(f"METHOD {name!r} is unknown; choose one of {', '.join(sorted(METHODS))}")
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
