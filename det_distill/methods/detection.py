"""Methods made for detectors: masked generation, focal and global distillation, knowledge review."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..adapters import Generation, GlobalContext, ReviewFusion
from ..losses import FocalGlobal, GlobalRelation, HierarchicalContext, MaskedGeneration
from .sides import Parts, Side, channel_adapter


def masked_generation(
    student: Side,
    teacher: Side,
    *,
    ratio: float = 0.45,
    mask: Literal["cells", "channels"] = "cells",
    reduction: Literal["sum", "mean"] = "sum",
) -> Parts:
    """Masked generative distillation, Yang et al., ECCV 2022 (yzd-v/MGD 2c9da0b).

    From the student's map, in which a random part is blanked out, a small network (`Generation`) makes the teacher's.

    The authors have a pair on each of p2 to p5 of Faster R-CNN, with weight 5e-7 and ratio 0.45, or on each of p3 to p7
    of RetinaNet, with 2e-5 and 0.65. These weights belong to ``"sum"``; see `MaskedGeneration`.

    Args:
        student: the student's map.
        teacher: the teacher's map.
        ratio: share that is blanked out; the authors' for two-stage detectors.
        mask: ``"cells"``, or ``"channels"`` (the authors' on ImageNet, with ratio 0.15 and weight 7e-5).
        reduction: ``"sum"`` over an image's elements, or their ``"mean"``.

    Raises:
        ValueError: an unknown choice, vectors, or a ratio outside of [0, 1).
    """
    for side in (student, teacher):
        side.need_maps("MaskedGeneration")
    adapter = Generation(student.channels, teacher.channels, ratio=ratio, mask=mask)
    return Parts(MaskedGeneration(reduction), adapter)


def focal_global(
    student: Side,
    teacher: Side,
    *,
    foreground_weight: float = 5e-5,
    background_weight: float = 2.5e-5,
    attention_weight: float = 5e-5,
    relation_weight: float = 5e-7,
    temperature: float = 0.5,
    adapter: str = "auto",
) -> Parts:
    """Focal and global distillation, Yang et al., CVPR 2022 (yzd-v/FGD c03a6cf).

    Two losses, `FocalGlobal` and `GlobalRelation`, on one map, a pair for each of p2 to p5 of Faster R-CNN. The
    defaults are the authors' weights for it, to be used with the pair's weight 1. Theirs for each of p3 to p7 of
    RetinaNet are 20 times as much of the first two and 10 times as much of the others.

    The weights belong to the defaults' reductions: foreground and background are sums over channels of a mean over a
    box's, or the background's, cells; attention and relation are sums over the map.

    Args:
        student: the student's map.
        teacher: the teacher's map.
        foreground_weight: alpha, of the difference in ground-truth boxes.
        background_weight: beta, of the difference elsewhere.
        attention_weight: gamma, of the difference of the attention.
        relation_weight: lambda, of the global part; 0 leaves it out, with its networks.
        temperature: of the attention.
        adapter: ``"auto"`` (a 1x1 convolution where the channels differ, as the authors have it), ``"linear"`` (always)
            or ``"none"``.

    Raises:
        ValueError: no map, an unknown choice, or a temperature that is not positive.
    """
    if not student.is_map:
        raise ValueError(
            f"{student.address!r} is not known to be a map, and FGD weighs the cells of maps by ground-truth boxes: "
            "name a level of the feature pyramid such as 'backbone:p3', or a stage of the backbone"
        )
    losses: dict[str, nn.Module] = {
        "focal": FocalGlobal(
            foreground=foreground_weight,
            background=background_weight,
            attention=attention_weight,
            temperature=temperature,
        )
    }
    weights = {"focal": 1.0}
    if relation_weight:
        channels = teacher.channels if adapter != "none" else student.channels
        losses["relation"] = GlobalRelation(GlobalContext(channels), GlobalContext(channels))
        weights["relation"] = relation_weight
    return Parts(losses, channel_adapter(student, teacher, adapter), weights=weights)


def review_fusion(student: Side, teacher: Side, *, mid_channels: int = 0) -> Parts:
    """Knowledge review (ReviewKD), Chen et al., CVPR 2021 (dvlab-research/ReviewKD cede6ea).

    One pair of several addresses a side, finest first. The student's levels are fused from the coarsest to the finest
    (`ReviewFusion`) and compared with the teacher's, each at several resolutions (`HierarchicalContext`).

    The authors' weights for p2 to p6 of Faster R-CNN are 1.0 (teacher ResNet-101, student ResNet-50), 1.2 (student
    ResNet-18) and 2.0 (MobileNetV2); on p3 to p7 of RetinaNet 1.0.

    Args:
        student: the student's levels.
        teacher: the teacher's levels.
        mid_channels: channels that flow between the levels; 0: the student's coarsest level's, at most 512.

    Raises:
        ValueError: coarser levels before finer ones, vectors, or a model does not declare its channels.
    """
    for side in (student, teacher):
        side.need_maps("ReviewFusion")
        strides = [spec.stride for spec in side.specs if spec.stride is not None]
        if strides != sorted(strides):
            raise ValueError(
                f"knowledge review goes through the levels from fine to coarse, but {', '.join(side.addresses)} have "
                f"the strides {', '.join(map(str, strides))}: name the finest level first"
            )
    adapter = ReviewFusion(student.all_channels, teacher.all_channels, mid_channels=mid_channels)
    return Parts(HierarchicalContext(), adapter)
