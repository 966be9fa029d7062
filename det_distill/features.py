"""What a tap recorded, as a feature that a pair can compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["feature", "full_precision"]


def feature(recorded: Mapping[str, Any], address: str) -> Tensor:
    """Return the tensor that was recorded at an address.

    Raises:
        ValueError: it is something else, such as the tuple of a head's outputs; says how to name one of them.
    """
    value = recorded[address]
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        keys = [str(key) for key in value]
    else:
        keys = [str(n) for n in range(len(value))] if isinstance(value, (list, tuple)) else []
    among = f": name one of its parts, {', '.join(repr(f'{address}:{key}') for key in keys)}" if keys else ""
    raise ValueError(f"{address!r} gives a {type(value).__name__}, not a tensor{among}")


def full_precision(value: Tensor) -> Tensor:
    """A teacher may run in half precision while frozen adapters keep float32 weights."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
