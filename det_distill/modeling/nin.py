"""Network in Network (Lin, Chen and Yan, arXiv:1312.4400) as a detectron2 backbone.

A few *mlpconv* layers, each a convolution and 1x1 convolutions, all with ReLU; between them 3x3 pooling of stride 2 and
dropout. The authors' last 1x1 convolution, which has a channel for each class, is not part of the backbone: see
:class:`NIN`. Features are named after the layers: ``mlpconv1`` and so on.

Shape letters: N images, C channels, H x W pixels of the (padded) batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn

from .fpn import build_fpn, last_input
from .layers import conv

__all__ = ["NIN", "NIN_LAYOUTS", "MlpConv", "add_nin_config", "build_nin_backbone", "build_nin_fpn_backbone"]


class MlpConv(NamedTuple):
    """One layer: size and stride of its convolution, the channels of that and of the 1x1 convolutions behind it.

    ``pool`` ("max" or "average") and ``dropout`` (whether there is one) come before it.
    """

    size: int
    channels: tuple[int, ...]
    stride: int = 1
    pool: str = ""
    dropout: bool = False


_IMAGENET = (
    MlpConv(11, (96, 96, 96), stride=4),
    MlpConv(5, (256, 256, 256), pool="max"),
    MlpConv(3, (384, 384, 384), pool="max"),
)
NIN_LAYOUTS = {
    "cifar": (
        MlpConv(5, (192, 160, 96)),
        MlpConv(5, (192, 192, 192), pool="max", dropout=True),
        MlpConv(3, (192, 192), pool="average", dropout=True),
    ),
    "imagenet": (*_IMAGENET, MlpConv(3, (1024, 1024), pool="max", dropout=True)),
    "darkrank": (*_IMAGENET, MlpConv(3, (1024, 1024, 1024), pool="max", dropout=True)),
}
"""``cifar``, ``imagenet``: the authors' Caffe models. ``darkrank``: one more 1x1 convolution in place of the classes.

That is the student of Chen, Wang and Zhang, "DarkRank", arXiv:1707.01220 (TuSimple/DarkRank@581c912,
``symbol/symbol_nin-head-bn.py``), with ``norm="BN"``.
"""


class NIN(Backbone):
    """The mlpconv layers, returning ``{feature: (N, C, ~H / stride, ~W / stride)}``.

    Strides are 1, 2, 4 ("cifar") or 4, 8, 16, 32. Pooling rounds odd sizes down. Weights lie under ``<feature>.<n>``,
    n = 0 for the convolution, then the 1x1 convolutions.

    The authors end with one more 1x1 convolution to a map for each class and the mean over each map. The mean over the
    maps before it and a linear layer, as `ImageClassifier` has them, are the same function, parameter for parameter.
    (The authors' Caffe models have a ReLU between that convolution and the mean, which this has not: a logit may be
    negative.)

    Differences from the Caffe models: the first convolution of the large layouts is padded (by 5), so that every cell
    lies at its stride; weights are initialised by He et al., as in all of this package's networks.

    Args:
        layout: one of :data:`NIN_LAYOUTS`.
        width: factor on all channels, rounded: with ten classes and layout "cifar" 1.0 makes 0.97 million parameters,
            0.45 makes 0.20 million.
        norm: between every convolution and its ReLU, a name that detectron2's ``get_norm`` knows; ``""``: none.
        dropout: probability, where the layout has dropout. The authors' is 0.5.
        last: the last feature that is built and returned; ``""``: that of the last layer.
        in_channels: channels of the input pictures.

    Raises:
        ValueError: no such layout, width, dropout or feature.
    """

    def __init__(
        self,
        layout: str = "cifar",
        *,
        width: float = 1.0,
        norm: str = "",
        dropout: float = 0.5,
        last: str = "",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        features = nin_features(layout)
        last = last or features[-1]
        if width <= 0 or not 0 <= dropout < 1 or last not in features:
            raise ValueError(
                f"NIN with width={width}, dropout={dropout}, last={last!r} does not exist: width is above 0, dropout "
                f"is from 0 to below 1, last is one of {', '.join(features)}"
            )
        self._shapes: dict[str, ShapeSpec] = {}
        channels, stride = in_channels, 1
        for number, (name, layer) in enumerate(zip(features, NIN_LAYOUTS[layout], strict=True)):
            if number:
                self.add_module(f"pool{number}", _pool(layer, dropout))
                stride *= 2
            block = nn.Sequential()
            for position, base in enumerate(layer.channels):
                size, step = (layer.size, layer.stride) if position == 0 else (1, 1)
                wide = max(round(base * width), 1)
                block.append(conv(channels, wide, size, stride=step, norm=norm, activation=F.relu))
                channels, stride = wide, stride * step
            self.add_module(name, block)
            self._shapes[name] = ShapeSpec(channels=channels, stride=stride)
            if name == last:
                return

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map pictures (N, in_channels, H, W) to the maps of all features, by name."""
        maps = {}
        for number, name in enumerate(self._shapes):
            if number:
                x = self.get_submodule(f"pool{number}")(x)
            x = maps[name] = self.get_submodule(name)(x)
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature, by name."""
        return dict(self._shapes)


def nin_features(layout: str) -> list[str]:
    """The names of a layout's features.

    Raises:
        ValueError: no such layout.
    """
    if layout not in NIN_LAYOUTS:
        raise ValueError(f"NIN has no layout {layout!r}; it has {', '.join(NIN_LAYOUTS)}")
    return [f"mlpconv{number}" for number in range(1, len(NIN_LAYOUTS[layout]) + 1)]


def _pool(layer: MlpConv, dropout: float) -> nn.Module:
    pool = nn.MaxPool2d if layer.pool == "max" else nn.AvgPool2d
    return nn.Sequential(pool(3, 2, ceil_mode=True), nn.Dropout(dropout if layer.dropout else 0.0))


def add_nin_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.NIN``, which the two builders below read, to a detectron2 config."""
    cfg.MODEL.NIN = CfgNode()
    cfg.MODEL.NIN.LAYOUT = "cifar"
    cfg.MODEL.NIN.WIDTH = 1.0
    cfg.MODEL.NIN.NORM = ""
    cfg.MODEL.NIN.DROPOUT = 0.5


def _build(cfg: CfgNode, input_shape: ShapeSpec, last: str) -> NIN:
    node = cfg.MODEL.NIN
    return NIN(
        node.LAYOUT,
        width=node.WIDTH,
        norm=node.NORM,
        dropout=node.DROPOUT,
        last=last,
        in_channels=input_shape.channels or 3,
    )


@BACKBONE_REGISTRY.register()
def build_nin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> NIN:
    """``MODEL.BACKBONE.NAME: "build_nin_backbone"``: a :class:`NIN` as ``MODEL.NIN`` says."""
    return _build(cfg, input_shape, "")


@BACKBONE_REGISTRY.register()
def build_nin_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``MODEL.BACKBONE.NAME: "build_nin_fpn_backbone"``: the FPN of ``MODEL.FPN`` on a :class:`NIN`.

    All layers of "cifar" give levels p0 to p2, all layers of the other layouts p2 to p5; the next level comes by
    subsampling. What lies behind the last input is not built.
    """
    return build_fpn(cfg, _build(cfg, input_shape, last_input(cfg, nin_features(cfg.MODEL.NIN.LAYOUT))))
