"""Layers, strides and stages that a network of another library cannot have, each with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from detectron2.layers import DeformConv, FrozenBatchNorm2d, ModulatedDeformConv
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BasicStem
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...classification import ImageClassifier
from ...convolutions import convolutions_of
from ...modeling.vgg import VGG
from ..check import DoesNotFit

__all__ = ["check_layers", "check_moves", "in_a_row", "refuse"]

_INSTEAD = "Choose --to safetensors backbone, or onnx-backbone, which take any network"
_EPS = 1e-5


def refuse(library: str, why: str, instead: str = _INSTEAD) -> NoReturn:
    """Raise DoesNotFit: the library lacks the backbone."""
    raise DoesNotFit(f"{library} has no such backbone: {why}. {instead}")


def in_a_row(model: Any, part: nn.Module, library: str) -> nn.Sequential:
    """Return the modules of a ResNet or VGG, by detectron2's names, one after another.

    A ResNet goes on with the ``res5`` that a C4 detector has in its heads, and with ``pool`` and ``classifier`` of an
    `ImageClassifier` that averages ``res5`` and has no embedding.

    Args:
        model: what the backbone is part of.
        part: the backbone, without a pyramid.
        library: for messages.

    Raises:
        DoesNotFit: it is another network, or stages are missing.
    """
    if isinstance(part, VGG):
        if not {"conv5", "pool5"} & set(part._ends.values()):
            refuse(library, "it ends before the last block (MODEL.VGG.OUT_FEATURES)")
        return _row({"features": part.features})
    if not isinstance(part, ResNet):
        refuse(library, f"this one is a {type(part).__name__}, and only ResNets and VGGs are the same there")
    if not isinstance(part.stem, BasicStem):
        refuse(library, f"its stem is a {type(part.stem).__name__}, not a 7x7 convolution with pooling")
    row: dict[str, nn.Module] = {"stem": part.stem, **{k: getattr(part, k) for k in part.stage_names}}
    last = getattr(getattr(model, "roi_heads", None), "res5", None)
    if "res5" not in row and isinstance(last, nn.Sequential):
        row["res5"] = last
    if "res5" not in row:
        refuse(
            library, f"it ends at {list(row)[-1]} and lacks the stages behind (MODEL.RESNETS.OUT_FEATURES)"
        )
    if (
        isinstance(model, ImageClassifier)
        and model.feature == "res5"
        and not hasattr(model.embedding, "weight")
    ):
        row |= {"pool": model.pool, "classifier": model.classifier}
    return _row(row)


def _row(modules: Mapping[str, nn.Module]) -> nn.Sequential:
    row = nn.Sequential()
    for name, module in modules.items():
        row.add_module(name, module)
    return row


def check_layers(ours: nn.Module, library: str) -> None:
    """Raise DoesNotFit for deformable convolutions and for norms other than (frozen) batch norms of eps 1e-5.

    Batch norms over several GPUs are batch norms: they have the same tensors, and in eval mode they do the same.
    """
    for path, layer in ours.named_modules():
        if isinstance(layer, DeformConv | ModulatedDeformConv):
            refuse(library, f"{path} is a deformable convolution (MODEL.RESNETS.DEFORM_ON_PER_STAGE)")
        norm = path.endswith(".norm") or isinstance(layer, nn.GroupNorm | _BatchNorm)
        if norm and not isinstance(layer, FrozenBatchNorm2d | _BatchNorm):
            refuse(library, f"{path} is a {type(layer).__name__}, and its networks have batch norms (NORM)")
        if norm and layer.eps != _EPS:
            refuse(library, f"{path} adds {layer.eps:g} to the variance, and its networks {_EPS:g}")


def check_moves(ours: nn.Module, theirs: nn.Module, rename: Callable[[str], str], library: str) -> None:
    """Raise DoesNotFit if convolutions of the same tensors differ in stride, padding, dilation or groups.

    Args:
        ours: as `in_a_row` returns it.
        theirs: the library's.
        rename: name of a tensor in `ours` -> in `theirs`.
        library: for messages.
    """
    here = {rename(f"{k}.weight").removesuffix(".weight"): v for k, v in convolutions_of(ours).items()}
    there = convolutions_of(theirs)
    differing = [k for k in here if here[k] != there[k]]
    if not differing:
        return
    first = differing[0]
    if any(here[k][2] != 1 for k in differing):
        refuse(
            library, "its last stage is dilated (MODEL.RESNETS.RES5_DILATION), unlike any that is built there"
        )
    if first.endswith(".conv1") and here[first][0] == 2:
        refuse(
            library,
            "its blocks have the stride in the first 1x1 convolution (MODEL.RESNETS.STRIDE_IN_1X1: True, as weights of "
            "MSRA want it), and those there have it in the 3x3: the tensors would load and compute something else. A "
            "student with STRIDE_IN_1X1: False, from weights of torchvision, has a counterpart",
        )
    refuse(
        library, f"stride, padding, dilation, groups of {first} are {here[first]}, and {there[first]} there"
    )
