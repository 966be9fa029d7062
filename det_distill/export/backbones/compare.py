"""Whether two networks of two libraries have the same maps of the same photos."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from ..check import largest_difference, tensors_in

__all__ = ["TOLERANCE", "Comparison", "compare", "outputs_of"]

TOLERANCE = 1e-4
"""The largest difference of float32 maps that is accepted, relative to their largest value."""

Comparison = tuple[float, float]
"""Largest absolute difference of any value, and the largest that is accepted."""


@torch.no_grad()
def outputs_of(model: nn.Module, modules: Iterable[str], image: Tensor) -> list[Tensor]:
    """Return the maps that modules give, by their paths, in one forward pass; "" is the model itself."""
    paths = list(modules)
    found: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Callable[..., None]:
        # a copy, as the next layer may write into it
        return lambda _module, _inputs, output: found.__setitem__(
            path, [t.clone() for t in tensors_in(output)]
        )

    handles = [model.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return [tensor for path in paths for tensor in found[path]]


def compare(pairs: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]) -> Comparison:
    """Compare what two networks gave for each of some images, map by map.

    Returns:
        Those of the map that is nearest to failing, or fails most. The difference is NaN where a value is not a
        number, infinite where shapes differ or where there is nothing to compare.
    """
    found = [
        (largest_difference([a], [b]), TOLERANCE * float(a.abs().max()))
        for ours, theirs in pairs
        for a, b in zip(ours, theirs, strict=True)
        if a.numel()
    ]
    if not any(tolerance for _, tolerance in found):
        return float("inf"), 0.0
    return max(found, key=_how_wrong)


def _how_wrong(comparison: Comparison) -> float:
    difference, tolerance = comparison
    if difference != difference:
        return float("inf")
    return 0.0 if difference == 0 else difference / max(tolerance, 1e-30)
