"""Arithmetic that several losses share: unit vectors, a divergence, work in parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

VALUES_AT_ONCE = 2**25
"""Elements that `in_parts` holds at once: 128 MB in float32."""


def unit_norm(factor: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide each sample of `factor` by the L2 norm of all its elements, or by `eps` where that is larger.

    (R, C) or (B, C, H, W) in, the same shape out. The norm is clamped, so that an all-zero sample stays zero
    with a finite gradient (at most 1 / eps).
    """
    norm = torch.linalg.vector_norm(factor.flatten(1), dim=1).clamp(min=eps)
    return factor / norm.view(-1, *[1] * (factor.dim() - 1))


def directions(embedding: Tensor, eps: float = 1e-6) -> Tensor:
    """Divide each row of (R, D) by its L2 norm; a row not longer than `eps` becomes zero, with zero gradient."""
    norm = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
    return torch.where(norm > eps, embedding, torch.zeros_like(embedding)) / norm.clamp(min=eps)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Element-wise p (log p - log q) - p + q, of any one shape.

    Summed over the outcomes of two distributions it is KL(p || q), because both sum to one. Each element is at
    least zero, and at p = q value and gradient are exactly zero, rounding or not: the gradient is q - p with
    respect to log q.
    """
    p, q = log_p.exp(), log_q.exp()
    return p * (log_p - log_q) - p + q


def in_parts(function: Callable[..., Tensor], size: int, *rows: Tensor) -> Tensor:
    """Return `function(*rows)`, of many rows in parts that are recomputed for the gradient.

    Args:
        function: of tensors with equally many rows; its result has a row for each, which depends on no other.
        size: elements that it holds for one row; about VALUES_AT_ONCE of them are held at once.
        rows: its arguments, (R, ...).
    """
    at_once = max(1, VALUES_AT_ONCE // size)
    if len(rows[0]) <= at_once:
        return function(*rows)
    parts = zip(*(r.split(at_once) for r in rows), strict=True)
    recompute = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([recompute(*part) for part in parts])
