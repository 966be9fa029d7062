"""A pretrained network on its way into detectron2, and what is said of a file that is another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .pixels import RgbPixels

__all__ = ["Imported", "another"]


@dataclass(frozen=True)
class Imported:
    """A pretrained network as detectron2 has it.

    Attributes:
        state: by the names below ``backbone.bottom_up``.
        first: the name of the first convolution's weight.
        network: its entry in `NETWORKS`; "": a network of timm, in a timm backbone.
        input_format: the channels that `first` takes.
        pixels: what it was trained with, red first, of pixels of 0 to 1.
        stride_in_1x1: blocks have their stride in the first convolution.
        left_out: tensors of the file that are no part of a backbone.
    """

    state: dict[str, Tensor]
    first: str
    network: str
    input_format: str
    pixels: RgbPixels
    stride_in_1x1: bool = False
    left_out: tuple[str, ...] = ()


def another(
    path: str,
    wanted: str,
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    other: str,
) -> str:
    """Return what is wrong with a file.

    Args:
        path: the file.
        wanted: the network that it should be.
        expected: that network's tensors, by name.
        found: the file's.
        other: the network that it is instead; "": unknown.
    """
    missing = [k for k in expected if k not in found]
    extra = [k for k in found if k not in expected]
    shapes = [k for k in expected if k in found and found[k] != expected[k]]
    parts = [
        f"{len(names)} {what}, such as {_first(names, found, expected)}"
        for names, what in (
            (missing, "of its tensors are not in the file"),
            (extra, "tensors of the file have no place in it"),
            (shapes, "have another shape"),
        )
        if names
    ]
    what = f"it is {other}: give --model {other}" if other else "it holds another network, or not all of one"
    return f"{path} is not {wanted}: {what} ({'; '.join(parts)})"


def _first(
    names: Iterable[str], found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> str:
    name = next(iter(names))
    shapes = [
        f"{where} {side[name]}" for where, side in (("file", found), ("network", expected)) if name in side
    ]
    return f"{name} ({', '.join(shapes)})"
