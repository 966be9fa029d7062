"""ResNets that were trained in Caffe or Caffe2, as detectron2's zoo has them: MSRA's, and FAIR's ResNeXt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...files import FileError
from .imported import Imported, another
from .names import from_caffe2, from_torchvision
from .networks import blueprint, body_shapes
from .pixels import rgb_pixels
from .read import read_blobs

__all__ = ["CAFFE2", "Caffe2Network", "imported_caffe2"]


@dataclass(frozen=True)
class Caffe2Network:
    """A file of detectron2's zoo that was trained in Caffe or Caffe2; its pixels are BGR.

    Attributes:
        network: of `NETWORKS`.
        std: per channel, blue first, of pixels of 0 to 255.
        stride_in_1x1: see `Imported`.
    """

    network: str
    std: tuple[float, float, float]
    stride_in_1x1: bool


CAFFE2: dict[str, dict[str, Caffe2Network]] = {
    "msra": {
        "R-50": Caffe2Network("resnet50", (1.0, 1.0, 1.0), True),
        "R-101": Caffe2Network("resnet101", (1.0, 1.0, 1.0), True),
    },
    "fair": {"X-101-32x8d": Caffe2Network("resnext101_32x8d", (57.375, 57.12, 58.395), False)},
}
"""Source -> the zoo's name -> network, as detectron2's MODEL_ZOO.md and its configs describe them."""

_CAFFE2_MEAN = (103.53, 116.28, 123.675)


def imported_caffe2(path: str, source: str, model: str) -> Imported:
    """Read a file of `CAFFE2`, whose batch norms have only the two factors into which their statistics were folded.

    Args:
        path: the file.
        source: a key of `CAFFE2`.
        model: a key of its entry.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such network; or the file is another one.
    """
    if model not in CAFFE2[source]:
        raise ValueError(f"there is no {model!r} of {source}: there are {', '.join(CAFFE2[source])}")
    known, blobs = CAFFE2[source][model], read_blobs(path)
    named, left_out = {}, []
    for blob, value in blobs.items():
        try:
            named[from_caffe2(blob)] = value
        except ValueError:
            left_out.append(blob)
    stray = [k for k in left_out if k.startswith("res") or "_gn_" in k]
    if stray:
        raise FileError(
            f"{path} is not the {model} of {source}: its blob {stray[0]} is of another kind of network"
        )
    shapes = body_shapes(blueprint("torchvision", known.network).state_dict())
    expected = {from_torchvision(k): v for k, v in shapes.items()}
    folded = {
        k: _unfolded(k, shape)
        for k, shape in expected.items()
        if k.endswith((".running_mean", ".running_var"))
    }
    state = {k: named.get(k, folded.get(k)) for k in expected if k in named or k in folded}
    found = {k: tuple(v.shape) for k, v in {**state, **named}.items() if v is not None}
    if found != expected:
        other = next((m for s in CAFFE2.values() for m, n in s.items() if n != known and _has(found, n)), "")
        raise FileError(another(path, f"the {model} of {source}", expected, found, other))
    pixels = rgb_pixels("BGR", _CAFFE2_MEAN, known.std)
    tensors = {k: v for k, v in state.items() if v is not None}
    return Imported(
        tensors, "stem.conv1.weight", known.network, "BGR", pixels, known.stride_in_1x1, tuple(left_out)
    )


def _unfolded(name: str, shape: tuple[int, ...]) -> Tensor:
    """Statistics that change nothing: mean 0 and variance 1, as detectron2 fills them in for such a file."""
    return torch.zeros(shape) if name.endswith("mean") else torch.ones(shape)


def _has(found: Mapping[str, tuple[int, ...]], network: Caffe2Network) -> bool:
    shapes = body_shapes(blueprint("torchvision", network.network).state_dict())
    return {from_torchvision(k) for k in shapes if "running" not in k} == {
        k for k in found if "running" not in k
    }
