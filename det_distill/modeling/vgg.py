"""VGG (Simonyan and Zisserman, "Very Deep Convolutional Networks", arXiv:1409.1556) as a detectron2 backbone.

Features: ``conv1`` to ``conv5`` are the last maps of the five blocks (strides 1, 2, 4, 8, 16), ``pool5`` is
the pooled last one (stride 32). The classical Faster R-CNN uses ``conv5``; an FPN takes ``conv3, conv4,
conv5, pool5`` for levels p2 to p5.

Shape letters: N images, C channels, H x W pixels of the (padded) batch.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from torch import Tensor, nn

from .fpn import build_fpn

BLOCKS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each of the five blocks, by depth; the depth also counts three classifier layers."""

WIDTHS = (64, 128, 256, 512, 512)
FEATURES = ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5")


class VGG(Backbone):
    """The convolutions of VGG, returning ``{feature name: (N, C, floor(H / stride), floor(W / stride))}``.

    Layers are numbered as in torchvision's ``vgg16().features`` (``vgg16_bn`` with a norm), so that its
    weights fit ``backbone.features.*``. Unlike ResNet, VGG rounds odd sizes down.

    Args:
        depth: one of :data:`BLOCKS`.
        norm: a name that detectron2's ``get_norm`` knows, such as ``"BN"`` or ``"FrozenBN"``; ``""`` for
            none. Convolutions keep their bias in any case.
        out_features: names among :data:`FEATURES`. Layers behind the last one are not built.
        freeze_at: the first blocks that are not trained; their BatchNorm becomes detectron2's
            ``FrozenBatchNorm2d``. 2 is the common choice for detectors from ImageNet weights.
        in_channels: channels of the input pictures.

    Raises:
        ValueError: unknown depth or feature, no feature at all, or more frozen blocks than there are.
    """

    def __init__(
        self,
        depth: int,
        *,
        norm: str = "",
        out_features: Sequence[str] = ("conv3", "conv4", "conv5", "pool5"),
        freeze_at: int = 0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        unknown = [f for f in out_features if f not in FEATURES]
        if depth not in BLOCKS or unknown or not out_features or not 0 <= freeze_at <= 5:
            raise ValueError(
                f"VGG with depth={depth}, out_features={list(out_features)}, freeze_at={freeze_at} does not "
                f"exist: depth is one of {list(BLOCKS)}, out_features are among {list(FEATURES)}, "
                "freeze_at is 0 to 5."
            )
        self._out_features = list(out_features)
        self._out_feature_strides = {f: 2 ** FEATURES.index(f) for f in out_features}
        self._out_feature_channels = {f: (*WIDTHS, WIDTHS[-1])[FEATURES.index(f)] for f in out_features}
        last = max(FEATURES.index(f) for f in out_features)
        self.features = nn.Sequential()
        self._ends: dict[int, str] = {}  # position of the layer whose output is the feature
        for block, (count, width) in enumerate(zip(BLOCKS[depth], WIDTHS, strict=True)):
            if block > last:
                break
            for _ in range(count):
                self._append(in_channels, width, norm)
                in_channels = width
            self._ends[len(self.features) - 1] = FEATURES[block]
            if block < freeze_at:
                self._freeze()
            if block < last:
                self.features.append(nn.MaxPool2d(2))
        if last == len(WIDTHS):
            self._ends[len(self.features) - 1] = "pool5"

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map pictures (N, in_channels, H, W) to the maps of ``out_features``, in that order, by name."""
        maps = {}
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position in self._ends:
                maps[self._ends[position]] = x
        return {f: maps[f] for f in self._out_features}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every returned feature, by name."""
        return {
            f: ShapeSpec(channels=self._out_feature_channels[f], stride=self._out_feature_strides[f])
            for f in self._out_features
        }

    def _append(self, in_channels: int, width: int, norm: str) -> None:
        conv = nn.Conv2d(in_channels, width, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        normalise = get_norm(norm, width)
        layers = [conv, nn.ReLU()] if normalise is None else [conv, normalise, nn.ReLU()]
        self.features.extend(layers)

    def _freeze(self) -> None:
        """Freeze every layer built so far."""
        for parameter in self.features.parameters():
            parameter.requires_grad = False
        self.features = FrozenBatchNorm2d.convert_frozen_batchnorm(self.features)


def add_vgg_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.VGG``, which the two builders below read, to a detectron2 config."""
    cfg.MODEL.VGG = CfgNode()
    cfg.MODEL.VGG.DEPTH = 16
    cfg.MODEL.VGG.NORM = ""
    cfg.MODEL.VGG.OUT_FEATURES = ["conv3", "conv4", "conv5", "pool5"]
    cfg.MODEL.VGG.FREEZE_AT = 0


@BACKBONE_REGISTRY.register()
def build_vgg_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> VGG:
    """``MODEL.BACKBONE.NAME: "build_vgg_backbone"``: a :class:`VGG` as ``MODEL.VGG`` says."""
    return VGG(
        cfg.MODEL.VGG.DEPTH,
        norm=cfg.MODEL.VGG.NORM,
        out_features=cfg.MODEL.VGG.OUT_FEATURES,
        freeze_at=cfg.MODEL.VGG.FREEZE_AT,
        in_channels=input_shape.channels or 3,
    )


@BACKBONE_REGISTRY.register()
def build_vgg_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``MODEL.BACKBONE.NAME: "build_vgg_fpn_backbone"``: the FPN of ``MODEL.FPN`` on a :class:`VGG`."""
    return build_fpn(cfg, build_vgg_backbone(cfg, input_shape))
