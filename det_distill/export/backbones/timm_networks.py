"""timm's own networks, which a timm backbone is made of: how its file is loaded into timm's extractor of maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...modeling.timm_backbone import TimmBackbone, import_timm
from ..check import DoesNotFit
from .pixels import IMAGENET, RgbPixels

__all__ = ["TimmConstruction", "first_convolution", "plain_name", "timm_construction", "timm_pixels"]


@dataclass(frozen=True)
class TimmConstruction:
    """An extractor of maps that has exactly the tensors of a `TimmBackbone`.

    Attributes:
        code: lines of Python that make it, ``model``.
        build: does so.
        first: the name of the weight of the convolution that sees the image.
    """

    code: tuple[str, ...]
    build: Callable[[], nn.Module]
    first: str


def timm_construction(part: TimmBackbone) -> TimmConstruction:
    """Return how timm builds the network of a backbone.

    Raises:
        DoesNotFit: `part` ends before the network does and timm always builds all of it.
    """
    timm = import_timm()
    own = part.body.state_dict()
    convolution = next(m for m in part.body.modules() if isinstance(m, nn.Conv2d))
    options: dict[str, Any] = {"features_only": True, "out_indices": part.out_indices}
    if convolution.in_channels != 3:
        options["in_chans"] = convolution.in_channels
    with torch.device("meta"):
        built = timm.create_model(part.name, **options).state_dict()
    if {k: v.shape for k, v in built.items()} != {k: v.shape for k, v in own.items()}:
        raise DoesNotFit(
            f"timm builds {part.name} with stages behind the last one that this backbone returns "
            f"({', '.join(part.output_shape())}), so its file would lack them there. Choose --to safetensors backbone"
        )
    arguments = "".join(f", {key}={value!r}" for key, value in options.items())
    return TimmConstruction(
        ("import timm", f"model = timm.create_model({part.name!r}{arguments})"),
        lambda: timm.create_model(part.name, **options),
        first_convolution(part.body),
    )


def first_convolution(body: nn.Module) -> str:
    """Return the name of the weight of the first convolution of a network."""
    path = next(k for k, m in body.named_modules() if isinstance(m, nn.Conv2d))
    return f"{path}.weight"


def plain_name(name: str) -> str:
    """Return a tensor's name with dots only: timm's extractors write some of them as underscores."""
    return name.replace("_", ".")


def timm_pixels(name: str) -> RgbPixels:
    """Return how a network of timm wants its pixels, by its name with or without the tag of its weights."""
    timm = import_timm()
    known = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    return RgbPixels(tuple(known.mean), tuple(known.std)) if known else IMAGENET
