"""Training modes of modules: kept for a while, and batch normalisation at rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["batch_norms", "restored_modes"]


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Return all layers with running statistics; those of other libraries may have modules of their own inside."""
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def restored_modes(model: nn.Module) -> Iterator[None]:
    """After the block, every module is in training or eval mode as it was before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
