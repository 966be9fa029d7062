"""Wall-clock time of work that may run asynchronously on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

__all__ = ["elapsed"]


def elapsed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work()` takes, with everything that it started on `device` finished.

    Args:
        work: what to time; called once.
        device: a CUDA device is waited for before and after.
    """
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
