"""detectron2's RegNet (Radosavovic et al., "Designing Network Design Spaces", arXiv:2003.13678) for YAML configs.

The network is `detectron2.modeling.backbone.regnet.RegNet` itself, which detectron2 offers to LazyConfigs only.
Features: ``stem`` (stride 2) and the four stages ``s1`` to ``s4`` (strides 4, 8, 16, 32).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.regnet import (
    RegNet,
    ResBottleneckBlock,
    SimpleStem,
    generate_regnet_parameters,
)

from .fpn import build_fpn

__all__ = [
    "REGNETS",
    "RegNetDesign",
    "add_regnet_config",
    "build_regnet_backbone",
    "build_regnet_fpn_backbone",
]


class RegNetDesign(NamedTuple):
    """The numbers that make one RegNet: block j of `depth` is about ``w_0 + w_a * j`` channels wide (section 3.3)."""

    depth: int
    w_a: float
    w_0: int
    w_m: float
    group_width: int
    se_ratio: float = 0.0


REGNETS = {
    "X_200MF": RegNetDesign(13, 36.44, 24, 2.49, 8),
    "X_400MF": RegNetDesign(22, 24.48, 24, 2.54, 16),
    "X_600MF": RegNetDesign(16, 36.97, 48, 2.24, 24),
    "X_800MF": RegNetDesign(16, 35.73, 56, 2.28, 16),
    "X_1.6GF": RegNetDesign(18, 34.01, 80, 2.25, 24),
    "X_3.2GF": RegNetDesign(25, 26.31, 88, 2.25, 48),
    "X_4GF": RegNetDesign(23, 38.65, 96, 2.43, 40),
    "X_6.4GF": RegNetDesign(17, 60.83, 184, 2.07, 56),
    "X_8GF": RegNetDesign(23, 49.56, 80, 2.88, 120),
    "X_12GF": RegNetDesign(19, 73.36, 168, 2.37, 112),
    "X_16GF": RegNetDesign(22, 55.59, 216, 2.1, 128),
    "X_32GF": RegNetDesign(23, 69.86, 320, 2.0, 168),
    "Y_200MF": RegNetDesign(13, 36.44, 24, 2.49, 8, 0.25),
    "Y_400MF": RegNetDesign(16, 27.89, 48, 2.09, 8, 0.25),
    "Y_600MF": RegNetDesign(15, 32.54, 48, 2.32, 16, 0.25),
    "Y_800MF": RegNetDesign(14, 38.84, 56, 2.4, 16, 0.25),
    "Y_1.6GF": RegNetDesign(27, 20.71, 48, 2.65, 24, 0.25),
    "Y_3.2GF": RegNetDesign(21, 42.63, 80, 2.66, 24, 0.25),
    "Y_4GF": RegNetDesign(22, 31.41, 96, 2.24, 64, 0.25),
    "Y_6.4GF": RegNetDesign(25, 33.22, 112, 2.27, 72, 0.25),
    "Y_8GF": RegNetDesign(17, 76.82, 192, 2.19, 56, 0.25),
    "Y_12GF": RegNetDesign(19, 73.36, 168, 2.37, 112, 0.25),
    "Y_16GF": RegNetDesign(18, 106.23, 200, 2.48, 112, 0.25),
    "Y_32GF": RegNetDesign(20, 115.89, 232, 2.53, 232, 0.25),
}
"""The published networks by name: "X" without, "Y" with squeeze-and-excitation; the rest is the cost at 224 pixels.

The authors' numbers (pycls), as timm, torchvision and detectron2's LazyConfigs for 4GF have them. detectron2 and timm
make the authors' widths of them; torchvision rounds those of X_400MF, Y_800MF and Y_8GF in another way, so that its
weights do not fit there.
"""

STEM_WIDTH = 32


def add_regnet_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.REGNET``, which the two builders below read, to a detectron2 config."""
    cfg.MODEL.REGNET = CfgNode()
    cfg.MODEL.REGNET.NAME = "Y_400MF"
    cfg.MODEL.REGNET.DEPTH = 0
    cfg.MODEL.REGNET.W_A = 0.0
    cfg.MODEL.REGNET.W_0 = 0
    cfg.MODEL.REGNET.W_M = 0.0
    cfg.MODEL.REGNET.GROUP_WIDTH = 0
    cfg.MODEL.REGNET.SE_RATIO = 0.0
    cfg.MODEL.REGNET.NORM = "BN"
    cfg.MODEL.REGNET.OUT_FEATURES = ["s1", "s2", "s3", "s4"]
    cfg.MODEL.REGNET.FREEZE_AT = 0


@BACKBONE_REGISTRY.register()
def build_regnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> RegNet:
    """``MODEL.BACKBONE.NAME: "build_regnet_backbone"``: detectron2's RegNet as ``MODEL.REGNET`` says.

    Stages behind the last of ``OUT_FEATURES`` are not part of it. Unlike detectron2's class it takes pictures of any
    number of channels.

    Raises:
        ValueError: an unknown name, numbers that make no RegNet, both a name and numbers, an unknown feature or none,
            a ``FREEZE_AT`` that is not 0 to 5, or no norm, without which detectron2's blocks cannot be built.
    """
    node = cfg.MODEL.REGNET
    design = _design(node)
    stages = generate_regnet_parameters(design.w_a, design.w_0, design.w_m, design.depth)[2]
    offered = ["stem", *(f"s{stage + 1}" for stage in range(stages))]
    wanted = list(node.OUT_FEATURES)
    if not wanted or not set(wanted) <= set(offered):
        raise ValueError(f"MODEL.REGNET.OUT_FEATURES {wanted} must name some of {', '.join(offered)}")
    if not node.NORM or not 0 <= node.FREEZE_AT <= len(offered):
        raise ValueError(
            f"MODEL.REGNET with NORM {node.NORM!r}, FREEZE_AT {node.FREEZE_AT}: detectron2's RegNet needs a norm, "
            f"such as 'BN', and freezes 0 to {len(offered)} parts (the stem, then stages)"
        )
    channels = input_shape.channels or 3

    def stem(_: int, width: int, norm: str, activation: Any) -> SimpleStem:
        return SimpleStem(channels, width, norm, activation)

    model = RegNet(
        stem_class=stem,
        stem_width=STEM_WIDTH,
        block_class=ResBottleneckBlock,
        **design._asdict(),
        freeze_at=node.FREEZE_AT,
        norm=node.NORM,
        out_features=wanted,
    )
    last = max(offered.index(feature) for feature in wanted)
    for _, name in model.stages_and_names[last:]:
        delattr(model, name)
    del model.stages_and_names[last:]
    return model


@BACKBONE_REGISTRY.register()
def build_regnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``MODEL.BACKBONE.NAME: "build_regnet_fpn_backbone"``: the FPN of ``MODEL.FPN`` on detectron2's RegNet.

    Inputs s1 to s4 give levels p2 to p5, and p6 by subsampling.
    """
    return build_fpn(cfg, build_regnet_backbone(cfg, input_shape))


def _design(node: CfgNode) -> RegNetDesign:
    """The network that ``NAME`` names or the numbers describe."""
    numbers = RegNetDesign(node.DEPTH, node.W_A, node.W_0, node.W_M, node.GROUP_WIDTH, node.SE_RATIO)
    if node.NAME:
        if node.NAME not in REGNETS:
            raise ValueError(f"MODEL.REGNET.NAME {node.NAME!r} is none of {', '.join(REGNETS)}")
        if any(numbers):
            raise ValueError(
                f"MODEL.REGNET names {node.NAME} and gives numbers, {numbers}: set NAME to '' for a network of your own"
            )
        return REGNETS[node.NAME]
    depth, w_a, w_0, w_m, group_width, se_ratio = numbers
    if depth < 1 or w_a < 0 or w_0 < 8 or w_0 % 8 or w_m <= 1 or group_width < 1 or se_ratio < 0:
        raise ValueError(
            f"MODEL.REGNET without a NAME, {numbers}: DEPTH and GROUP_WIDTH are at least 1, W_A and SE_RATIO are not "
            "negative, W_0 is a multiple of 8, W_M is above 1"
        )
    return numbers
