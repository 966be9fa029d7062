"""The losses: each is a module `loss(student, teacher, valid=None) -> scalar` on tensors, with no weight."""

from .factor import FactorTransfer, scale_law, unit_norm
from .mimic import L2, LSH, limit_norm

__all__ = ["L2", "LSH", "FactorTransfer", "limit_norm", "scale_law", "unit_norm"]
