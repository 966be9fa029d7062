"""How convolutions move, which no tensor says: stride, padding, dilation, groups; and a warning where they differ."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.layers import DeformConv, ModulatedDeformConv
from torch import nn

__all__ = ["compare_convolutions", "convolutions_of", "offsets_of"]

logger = logging.getLogger(__name__)

_ASPECTS = ("stride", "padding", "dilation", "groups")


def convolutions_of(module: nn.Module) -> dict[str, list[Any]]:
    """Return path -> [stride, padding, dilation, groups] of every convolution in `module`, deformable ones, too.

    Each is a whole number, or, if it is not the same in both directions, a list of them; padding may be torch's text.
    """
    return {
        path: [_plain(getattr(part, aspect)) for aspect in _ASPECTS]
        for path, part in module.named_modules()
        if all(hasattr(part, name) for name in ("weight", *_ASPECTS))
    }


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        return int(value)
    numbers = [int(x) for x in value]
    return numbers[0] if len(set(numbers)) == 1 else numbers


def compare_convolutions(theirs: Mapping[str, Any], ours: Mapping[str, Any], file: str) -> None:
    """Warn if convolutions that share a path differ, and name the first of them.

    It is no error: the last stage of a detector may be dilated for weights that were trained without.

    Args:
        theirs: what `convolutions_of` said of the network in the file, by the paths of the other model.
        ours: of the model that it is loaded into.
        file: its name.
    """
    both = [k for k in ours if k in theirs]
    differing = [k for k in both if list(theirs[k]) != list(ours[k])]
    if not differing:
        return
    first = differing[0]
    values = zip(_ASPECTS, theirs[first], ours[first], strict=True)
    logger.warning(
        "%s was trained with other convolutions than this model has, so the same weights compute something else: in %s "
        "%s; %d of %d differ. In detectron2's ResNet MODEL.RESNETS.STRIDE_IN_1X1 and MODEL.RESNETS.RES5_DILATION make "
        "such a difference: set them as they were there, unless it is meant",
        *(file, first, ", ".join(f"{name} was {a} and is {b}" for name, a, b in values if a != b)),
        *(len(differing), len(both)),
    )


def offsets_of(module: nn.Module) -> set[str]:
    """Return the names of the tensors that predict where deformable convolutions look, by detectron2's naming."""
    kinds = (DeformConv, ModulatedDeformConv)
    paths = [path for path, part in module.named_modules() if isinstance(part, kinds)]
    return {f"{path}_offset.{tensor}" for path in paths for tensor in ("weight", "bias")}
