"""The ResNets and VGGs that detectron2 (or det_distill), torchvision and timm all can build, by the latter's names."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from ...modeling.timm_backbone import import_timm
from .names import COUNTER

__all__ = [
    "HEADS",
    "NETWORKS",
    "Network",
    "blueprint",
    "body_shapes",
    "construction",
    "empty",
    "fitting",
    "known_by",
    "library_name",
]

HEADS = ("fc.", "classifier.", "head.", "pre_logits.")
"""How the tensors of the classifiers begin, which are no part of a backbone."""


@dataclass(frozen=True)
class Network:
    """How detectron2's ResNet, or det_distill's VGG, is the same network.

    Attributes:
        depth: ``MODEL.RESNETS.DEPTH``, or ``MODEL.VGG.DEPTH``.
        groups, width: ``MODEL.RESNETS.NUM_GROUPS`` and ``WIDTH_PER_GROUP``.
        vgg: it is a VGG.
        norm: it has batch norms; every ResNet has.
    """

    depth: int
    groups: int = 1
    width: int = 64
    vgg: bool = False
    norm: bool = True


NETWORKS = {
    **{f"resnet{depth}": Network(depth) for depth in (18, 34, 50, 101, 152)},
    "resnext50_32x4d": Network(50, 32, 4),
    "resnext101_32x4d": Network(101, 32, 4),
    "resnext101_32x8d": Network(101, 32, 8),
    "resnext101_32x16d": Network(101, 32, 16),
    "resnext101_64x4d": Network(101, 64, 4),
    "wide_resnet50_2": Network(50, 1, 128),
    "wide_resnet101_2": Network(101, 1, 128),
    **{f"vgg{depth}": Network(depth, vgg=True, norm=False) for depth in (11, 13, 16, 19)},
    **{f"vgg{depth}_bn": Network(depth, vgg=True) for depth in (11, 13, 16, 19)},
}
"""Name -> network; torchvision lacks two of them, see `known_by`."""


def known_by(library: str) -> list[str]:
    """Return the names in `NETWORKS` that ``"torchvision"`` or ``"timm"`` can build."""
    if library == "timm":
        timm = import_timm()
        return [name for name in NETWORKS if timm.is_model(name)]
    return [name for name in NETWORKS if name in torchvision.models.list_models()]


def empty(library: str, name: str, classes: int = 0, channels: int = 3) -> nn.Module:
    """Build a network of `NETWORKS` as `construction` says it, with nothing in its tensors: they are to be loaded.

    Args: see `blueprint`.
    """
    return blueprint(library, name, classes, channels).to_empty(device="cpu")


def blueprint(library: str, name: str, classes: int = 0, channels: int = 3) -> nn.Module:
    """Build a network of `NETWORKS` as `construction` says it, on torch's meta device: shapes without values.

    Args:
        library: ``"torchvision"`` or ``"timm"``.
        name: one of `known_by`.
        classes: of a ResNet's linear layer; 0: without. A VGG is built without its layers for ImageNet.
        channels: of an image; torchvision knows 3 only.
    """
    vgg = NETWORKS[name].vgg
    with torch.device("meta"):
        if library == "timm":
            options: dict[str, Any] = {"features_only": True} if vgg else {"num_classes": classes}
            return import_timm().create_model(name, in_chans=channels, **options)
        if classes and not vgg:
            return torchvision.models.get_model(name, weights=None, num_classes=classes)
        model: nn.Module = torchvision.models.get_model(name, weights=None)
    setattr(model, "classifier" if vgg else "fc", nn.Identity())
    return model


def construction(library: str, name: str, classes: int = 0, channels: int = 3) -> list[str]:
    """Return the lines of Python that make ``model``, into which the exported file loads strictly."""
    vgg = NETWORKS[name].vgg
    if library == "timm":
        options = "features_only=True" if vgg else f"num_classes={classes}"
        images = "" if channels == 3 else f", in_chans={channels}"
        return ["import timm", f"model = timm.create_model({name!r}, {options}{images})"]
    lines = ["import torch, torchvision"]
    if classes and not vgg:
        return [*lines, f"model = torchvision.models.{name}(num_classes={classes})"]
    head = "classifier" if vgg else "fc"
    return [*lines, f"model = torchvision.models.{name}()", f"model.{head} = torch.nn.Identity()"]


def body_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of what is neither a head (`HEADS`) nor a counter of batches."""
    return {
        k: tuple(v.shape) for k, v in state.items() if not k.startswith(HEADS) and not k.endswith(COUNTER)
    }


def library_name(library: str, name: str) -> str:
    """Return a library's name of a tensor of a VGG: timm's extractor of maps has no dot behind ``features``."""
    return name.replace("features.", "features_", 1) if library == "timm" else name


def fitting(shapes: Mapping[str, tuple[int, ...]], library: str) -> str:
    """Return which network has exactly these tensors, by the library's names for them; "": none."""
    vgg = "conv1.weight" not in shapes
    first = next(iter(shapes.values()), ()) if vgg else shapes["conv1.weight"]
    channels = first[1] if len(first) == 4 else 3
    for name in known_by(library) if channels == 3 or library == "timm" else []:
        if NETWORKS[name].vgg == vgg and _shapes_of(library, name, channels) == dict(shapes):
            return name
    return ""


@functools.cache
def _shapes_of(library: str, name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return body_shapes(blueprint(library, name, channels=channels).state_dict())
