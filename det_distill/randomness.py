"""What draws random numbers without leaving a trace."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

__all__ = ["kept_random_state"]


def kept_random_state() -> AbstractContextManager[None]:
    """After the block, torch's generators for the CPU and for this process's GPU are where they were before."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    return torch.random.fork_rng(devices)
