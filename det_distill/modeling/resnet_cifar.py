"""The small residual networks for 32-pixel images as a detectron2 backbone.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", arXiv:1512.03385, section 4.2: a 3x3
convolution, then three stages of n blocks of two 3x3 convolutions each; 6n + 2 layers with the classifier. Features
are named as in detectron2's ResNet, with smaller strides: ``res2`` (stride 1), ``res3`` (2), ``res4`` (4).

Shape letters: N images, C channels, H x W pixels of the (padded) batch.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn

from .fpn import build_fpn
from .layers import conv

__all__ = [
    "CifarResNet",
    "add_cifar_resnet_config",
    "build_cifar_resnet_backbone",
    "build_cifar_resnet_fpn_backbone",
]

STAGES = {"res2": (16, 1), "res3": (32, 2), "res4": (64, 4)}
"""Channels at width 1, and stride, of each stage."""


class CifarResNet(Backbone):
    """The residual network without pooling and classifier, returning ``{stage: (N, C, ~H / stride, ~W / stride)}``.

    Odd sizes are rounded up. Weights lie under ``stem`` and ``<stage>.<block>.conv1``, ``.conv2`` (and ``.shortcut``).
    Convolutions are initialised as in He et al., arXiv:1502.01852 (normal, variance 2 / (C_out * 9)).

    Depths 8, 14, 20, 32, 44, 56, 110 and so on. The networks "8x4" and "32x4" of the distillation literature
    (HobbitLong/RepDistiller@eedab9d, ``models/resnet.py``) are ``width=4, stem_width=32, shortcut="B"``; that
    code has option B at every width.

    Args:
        depth: 6n + 2.
        width: factor on the channels 16, 32, 64 of the stages.
        stem_width: channels of the first convolution; 0: those of ``res2``.
        shortcut: what bridges a change of shape. ``"A"``: every second pixel, new channels are zero, no parameters
            (the paper's choice for these networks); ``"B"``: a 1x1 convolution with a norm.
        norm: a name that detectron2's ``get_norm`` knows, such as ``"BN"`` or ``"GN"``; ``""``: none, and biases.
        in_channels: channels of the input pictures.

    Raises:
        ValueError: no such depth, width or shortcut; ``"A"`` behind a stem that is wider than ``res2``.
    """

    def __init__(
        self,
        depth: int = 20,
        *,
        width: int = 1,
        stem_width: int = 0,
        shortcut: Literal["A", "B"] = "A",
        norm: str = "BN",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest or width < 1 or stem_width < 0 or shortcut not in ("A", "B"):
            raise ValueError(
                f"CifarResNet with depth={depth}, width={width}, stem_width={stem_width}, shortcut={shortcut!r} does "
                "not exist: depth is 6n + 2 (8, 14, 20, 32, 44, 56, 110), width is at least 1, stem_width is not "
                "negative, shortcut is 'A' or 'B'"
            )
        channels = stem_width or STAGES["res2"][0] * width
        if shortcut == "A" and channels > STAGES["res2"][0] * width:
            raise ValueError(
                f"a stem of {channels} channels before a stage of {STAGES['res2'][0] * width} needs shortcut 'B': "
                "'A' can only add channels"
            )
        self.stem = conv(in_channels, channels, 3, norm=norm)
        for name, (base, stride) in STAGES.items():
            stage = nn.Sequential()
            for block in range(blocks):
                first = 2 if stride > 1 and block == 0 else 1
                stage.append(_Block(channels, base * width, first, shortcut, norm))
                channels = base * width
            self.add_module(name, stage)
        self._shapes = {name: ShapeSpec(channels=c * width, stride=s) for name, (c, s) in STAGES.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map pictures (N, in_channels, H, W) to the maps of the three stages, by name."""
        x = F.relu(self.stem(x))
        maps = {}
        for name in STAGES:
            x = maps[name] = self.get_submodule(name)(x)
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every stage, by name."""
        return dict(self._shapes)


class _Block(CNNBlockBase):
    """``relu(conv(relu(conv(x))) + shortcut(x))``, each convolution with its norm."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str, norm: str) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, norm=norm)
        self.conv2 = conv(out_channels, out_channels, 3, norm=norm)
        same = stride == 1 and in_channels == out_channels
        project = shortcut == "B" and not same
        self.shortcut = conv(in_channels, out_channels, 1, stride=stride, norm=norm) if project else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        return F.relu(out + (self._bridge(x) if self.shortcut is None else self.shortcut(x)))

    def _bridge(self, x: Tensor) -> Tensor:
        """Every `stride`-th pixel, with channels of zeros behind those of x."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        added = self.out_channels - self.in_channels
        return F.pad(x, (0, 0, 0, 0, 0, added)) if added else x


def add_cifar_resnet_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.CIFAR_RESNET``, which the two builders below read, to a detectron2 config."""
    cfg.MODEL.CIFAR_RESNET = CfgNode()
    cfg.MODEL.CIFAR_RESNET.DEPTH = 20
    cfg.MODEL.CIFAR_RESNET.WIDTH = 1
    cfg.MODEL.CIFAR_RESNET.STEM_WIDTH = 0
    cfg.MODEL.CIFAR_RESNET.SHORTCUT = "A"
    cfg.MODEL.CIFAR_RESNET.NORM = "BN"


@BACKBONE_REGISTRY.register()
def build_cifar_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> CifarResNet:
    """``MODEL.BACKBONE.NAME: "build_cifar_resnet_backbone"``: a :class:`CifarResNet` as ``MODEL.CIFAR_RESNET`` says."""
    node = cfg.MODEL.CIFAR_RESNET
    return CifarResNet(
        node.DEPTH,
        width=node.WIDTH,
        stem_width=node.STEM_WIDTH,
        shortcut=node.SHORTCUT,
        norm=node.NORM,
        in_channels=input_shape.channels or 3,
    )


@BACKBONE_REGISTRY.register()
def build_cifar_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``MODEL.BACKBONE.NAME: "build_cifar_resnet_fpn_backbone"``: the FPN of ``MODEL.FPN`` on a :class:`CifarResNet`.

    Inputs res2 to res4 give levels p0 to p2 (strides 1, 2, 4), and p3 by subsampling.
    """
    return build_fpn(cfg, build_cifar_resnet_backbone(cfg, input_shape))
