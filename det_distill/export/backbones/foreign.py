"""The backbone of a model as a network of torchvision or timm: which it is, and its tensors by their names there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.modeling.backbone import ResNet
from torch import Tensor, nn

from ...modeling.timm_backbone import TimmBackbone
from ..check import bottom_up
from .layers import check_layers, check_moves, in_a_row, refuse
from .names import COUNTER, to_torchvision
from .networks import blueprint, body_shapes, construction, empty, fitting, library_name
from .timm_networks import timm_construction

__all__ = ["Foreign", "foreign_network"]


@dataclass(frozen=True)
class Foreign:
    """A backbone as another library has it.

    Attributes:
        library: ``"torchvision"`` or ``"timm"``.
        name: the library's name of the network.
        code: lines of Python that make ``model``, into which `state` loads strictly.
        build: does what `code` says, but leaves what is to be loaded without values.
        state: by the library's names; the first convolution still takes the channels that it takes here.
        first: the name of the first convolution's weight.
        ours: the network here.
        places: path of a module in `ours` -> in theirs; their outputs have to be equal.
        classes: of the linear layer that goes along; 0: none does.
    """

    library: str
    name: str
    code: tuple[str, ...]
    build: Callable[[], nn.Module]
    state: dict[str, Tensor]
    first: str
    ours: nn.Module
    places: dict[str, str]
    classes: int = 0


def foreign_network(model: nn.Module, library: str) -> Foreign:
    """Say which network of a library the backbone of a detector or classifier is.

    detectron2's ResNet and det_distill's VGG are torchvision's, and timm's, of the same tensors and the same strides. A
    timm backbone is timm's own. The last stage of a C4 detector, which it keeps in its heads, goes along; so does the
    linear layer of a classifier that is a ResNet and has no embedding.

    Args:
        model: a detector or a classifier, or any module with a ``backbone``.
        library: ``"torchvision"`` or ``"timm"``.

    Raises:
        DoesNotFit: the library has no network that computes the same, and why.
    """
    part = bottom_up(model)
    if isinstance(part, TimmBackbone):
        if library != "timm":
            refuse(library, f"this one is timm's {part.name}", "Choose --to timm")
        return _timms_own(part)
    ours = in_a_row(model, part, library)
    check_layers(ours, library)
    resnet = isinstance(part, ResNet)
    rename: Callable[[str], str] = _of_resnet if resnet else lambda name: library_name(library, name)
    state = {rename(k): v.detach().cpu() for k, v in ours.state_dict().items()}
    name = fitting(body_shapes(state), library)
    if not name:
        refuse(
            library, f"no {'ResNet' if resnet else 'VGG'} there has exactly these layers, channels and norms"
        )
    first = rename("stem.conv1.weight" if resnet else "features.0.weight")
    classes = len(state["fc.weight"]) if "fc.weight" in state else 0
    channels = int(state[first].shape[1])
    theirs = blueprint(library, name, classes, channels)
    check_moves(ours, theirs, rename, library)
    return Foreign(
        library,
        name,
        tuple(construction(library, name, classes, channels)),
        lambda: empty(library, name, classes, channels),
        _in_order_of(theirs, state),
        first,
        ours,
        _places(ours, rename),
        classes,
    )


def _of_resnet(name: str) -> str:
    return name.replace("classifier.", "fc.") if name.startswith("classifier.") else to_torchvision(name)


def _in_order_of(theirs: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state in the library's order, with the counters of batches that a frozen batch norm has not."""
    return {
        k: state.get(k, torch.tensor(0)) for k in theirs.state_dict() if k in state or k.endswith(COUNTER)
    }


def _places(ours: nn.Module, rename: Callable[[str], str]) -> dict[str, str]:
    """Of a ResNet its stem, stages and linear layer, of a VGG every ReLU."""
    stages = {"stem": "maxpool", **{f"res{i}": f"layer{i - 1}" for i in range(2, 6)}, "classifier": "fc"}
    named = dict(ours.named_modules())
    if "stem" in named:
        return {k: v for k, v in stages.items() if k in named}
    return {k: rename(k) for k, layer in named.items() if isinstance(layer, nn.ReLU)}


def _timms_own(part: TimmBackbone) -> Foreign:
    """timm's own network, whose list of maps is compared."""
    made = timm_construction(part)
    state = {k: v.detach().cpu() for k, v in part.body.state_dict().items()}
    return Foreign("timm", part.name, made.code, made.build, state, made.first, part.body, {"": ""})
