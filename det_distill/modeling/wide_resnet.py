"""The wide residual networks for 32-pixel images as a detectron2 backbone.

Zagoruyko and Komodakis, "Wide Residual Networks", arXiv:1605.07146: a 3x3 convolution of 16 channels, then three groups
of n blocks in which norm and ReLU come before each of the two 3x3 convolutions; 6n + 4 layers, k times as wide as a
ResNet. WRN-16-1, WRN-16-2, WRN-40-1 and WRN-40-2 are teachers and students of attention transfer; layer by layer as in
szagoruyko/attention-transfer@083a612, ``cifar.py``.

Shape letters: N images, C channels, H x W pixels of the (padded) batch.
"""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn

from .fpn import build_fpn, last_input
from .layers import conv, norm_layer

__all__ = [
    "WideResNet",
    "add_wide_resnet_config",
    "build_wide_resnet_backbone",
    "build_wide_resnet_fpn_backbone",
]

STEM_WIDTH = 16
GROUPS = {"res2": (16, 1), "res3": (32, 2), "res4": (64, 4)}
"""Channels at width 1, and stride, of each group."""
FEATURES = (*GROUPS, "final")


class WideResNet(Backbone):
    """The network without pooling and classifier, returning ``{feature: (N, C, ~H / stride, ~W / stride)}``.

    ``res2``, ``res3`` and ``res4`` are the outputs of the groups, sums with a sign, which is where attention transfer
    looks at the network; ``final`` is ``relu(norm(res4))``, which the classifier pools. Odd sizes are rounded up.

    Weights lie under ``stem``, ``<group>.<block>.norm1``, ``.conv1``, ``.norm2``, ``.conv2`` (and ``.shortcut``) and
    ``norm``. A 1x1 convolution bridges a change of the number of channels, from behind the block's first ReLU.

    Args:
        depth: 6n + 4: 10, 16, 22, 28, 40 and so on.
        width: k, the factor on the channels 16, 32, 64 of the groups.
        dropout: probability between the two convolutions of a block.
        norm: a name that detectron2's ``get_norm`` knows, such as ``"BN"`` (not ``"GN"``: 16 channels do
            not make its 32 groups); ``""``: none, and biases.
        last: the last feature that is built and returned.
        in_channels: channels of the input pictures.

    Raises:
        ValueError: no such depth, width, dropout, norm or feature.
    """

    def __init__(
        self,
        depth: int = 16,
        *,
        width: int = 1,
        dropout: float = 0.0,
        norm: str = "BN",
        last: str = "final",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest or width < 1 or not 0 <= dropout < 1 or last not in FEATURES:
            raise ValueError(
                f"WideResNet with depth={depth}, width={width}, dropout={dropout}, last={last!r} does not exist: depth "
                "is 6n + 4 (10, 16, 22, 28, 34, 40), width is at least 1, dropout is from 0 to below 1, last is one of "
                f"{', '.join(FEATURES)}"
            )
        channels = STEM_WIDTH
        self.stem = conv(in_channels, channels, 3, bias=norm == "")
        self._shapes = {}
        for name, (base, stride) in GROUPS.items():
            group = nn.Sequential()
            for block in range(blocks):
                first = 2 if stride > 1 and block == 0 else 1
                group.append(_Block(channels, base * width, first, norm, dropout))
                channels = base * width
            self.add_module(name, group)
            self._shapes[name] = ShapeSpec(channels=channels, stride=stride)
            if name == last:
                return
        self.norm = _norm(norm, channels)
        self._shapes["final"] = self._shapes["res4"]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map pictures (N, in_channels, H, W) to the maps of all features, by name."""
        x = self.stem(x)
        maps = {}
        for name in self._shapes:
            x = maps[name] = F.relu(self.norm(x)) if name == "final" else self.get_submodule(name)(x)
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature, by name."""
        return dict(self._shapes)


class _Block(CNNBlockBase):
    """``shortcut + conv2(dropout(relu(norm2(conv1(a)))))``, where ``a = relu(norm1(x))``.

    The shortcut is x itself, or a 1x1 convolution of ``a`` where the number of channels changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: str, dropout: float) -> None:
        super().__init__(in_channels, out_channels, stride)
        bias = norm == ""
        self.norm1 = _norm(norm, in_channels)
        self.conv1 = conv(in_channels, out_channels, 3, stride=stride, bias=bias)
        self.norm2 = _norm(norm, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(out_channels, out_channels, 3, bias=bias)
        same = in_channels == out_channels
        self.shortcut = None if same else conv(in_channels, out_channels, 1, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.norm1(x))
        y = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(a)))))
        sum_: Tensor = y + (x if self.shortcut is None else self.shortcut(a))
        return sum_


def _norm(norm: str, channels: int) -> nn.Module:
    return norm_layer(norm, channels) or nn.Identity()


def add_wide_resnet_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.WIDE_RESNET``, which the two builders below read, to a detectron2 config."""
    cfg.MODEL.WIDE_RESNET = CfgNode()
    cfg.MODEL.WIDE_RESNET.DEPTH = 16
    cfg.MODEL.WIDE_RESNET.WIDTH = 1
    cfg.MODEL.WIDE_RESNET.DROPOUT = 0.0
    cfg.MODEL.WIDE_RESNET.NORM = "BN"


def _build(cfg: CfgNode, input_shape: ShapeSpec, last: str) -> WideResNet:
    node = cfg.MODEL.WIDE_RESNET
    return WideResNet(
        node.DEPTH,
        width=node.WIDTH,
        dropout=node.DROPOUT,
        norm=node.NORM,
        last=last,
        in_channels=input_shape.channels or 3,
    )


@BACKBONE_REGISTRY.register()
def build_wide_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> WideResNet:
    """``MODEL.BACKBONE.NAME: "build_wide_resnet_backbone"``: a :class:`WideResNet` as ``MODEL.WIDE_RESNET`` says."""
    return _build(cfg, input_shape, "final")


@BACKBONE_REGISTRY.register()
def build_wide_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``MODEL.BACKBONE.NAME: "build_wide_resnet_fpn_backbone"``: the FPN of ``MODEL.FPN`` on a :class:`WideResNet`.

    Inputs res2, res3 and final (or res4) give levels p0 to p2 (strides 1, 2, 4), and p3 by subsampling. What lies
    behind the last input is not built.
    """
    return build_fpn(cfg, _build(cfg, input_shape, last_input(cfg, FEATURES)))
