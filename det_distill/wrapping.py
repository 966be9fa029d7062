"""The model inside what is wrapped around it."""

from __future__ import annotations

from torch import nn

__all__ = ["plain_model", "student_of"]


def plain_model(model: nn.Module) -> nn.Module:
    """Return the model inside a DistributedDataParallel wrapper, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def student_of(model: nn.Module) -> nn.Module:
    """Return the student of a `Distiller`, wrapped or not; any other model is its own student."""
    plain = plain_model(model)
    student = getattr(plain, "student", plain)
    return student if isinstance(student, nn.Module) else plain
