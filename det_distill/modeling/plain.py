"""Plain networks, a layer after the other, as papers write them down: ``C5@20-MP2, C5@50-MP2, FC500``.

* ``C<k>@<n>``: a k x k convolution to n channels, then ReLU
* ``MP<k>``: k x k max pooling of stride k; what does not fill a window is dropped
* ``FC<n>``: a fully connected layer to n features, then ReLU

The notation is that of Sau and Balasubramanian, "Deep Model Compression: Distilling Knowledge from Noisy Teachers",
arXiv:1610.09650.

Shape letters: N images, C channels, H x W pixels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from .layers import conv, norm_layer

__all__ = ["PlainNet", "add_plain_config", "build_plain_backbone"]

_LAYER = re.compile(r"C(?P<size>\d+)@(?P<channels>\d+)|MP(?P<window>\d+)|FC(?P<features>\d+)")


class PlainNet(Backbone):
    """Layers in a row, returning what each gives: ``{"layer1": (N, C, h, w), ...}``, (N, C, 1, 1) behind an ``FC``.

    The stride of a fully connected layer is not declared. Convolutions have a bias unless there is a norm. Weights are
    initialised as in He et al., arXiv:1502.01852 (variance 2 / fan-out; of fully connected layers 2 / fan-in), and lie
    under ``layer<n>``, n counts all layers from 1.

    Args:
        layers: as above.
        image_size: H = W of the pictures, for ``FC`` layers; without such, any size will do and this is not used.
        padding: ``"same"``: a convolution keeps the size of a map (k must be odd); ``"valid"``: no padding, its map is
            smaller by k - 1, as in LeNet.
        norm: between a convolution or fully connected layer and its ReLU, a name that detectron2's ``get_norm`` knows;
            ``""``: none.
        dropout: probability behind every ``FC`` layer.
        in_channels: channels of the pictures.

    Raises:
        ValueError: a layer that is none of the three, other layers behind an ``FC``, an even k with padding "same", an
            `image_size` that is missing or too small, or another option that does not exist.
    """

    def __init__(
        self,
        layers: Sequence[str],
        *,
        image_size: int = 0,
        padding: Literal["same", "valid"] = "same",
        norm: str = "",
        dropout: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        parsed = [_parsed(text) for text in layers]
        if not parsed or padding not in ("same", "valid") or not 0 <= dropout < 1 or image_size < 0:
            raise ValueError(
                f"a plain net of {len(parsed)} layers with padding={padding!r}, dropout={dropout}, "
                f"image_size={image_size} does not exist: it has layers, padding is 'same' or 'valid', dropout is from "
                "0 to below 1, image_size is not negative"
            )
        connected = [layer["features"] > 0 for layer in parsed]
        if connected != sorted(connected):
            raise ValueError(f"plain net {list(layers)}: nothing but FC layers can come behind an FC layer")
        if any(connected) and not image_size:
            raise ValueError(
                f"plain net {list(layers)}: FC layers need the pixels of a side, MODEL.PLAIN.IMAGE_SIZE"
            )
        self.image_size = image_size if any(connected) else 0
        self._shapes: dict[str, ShapeSpec] = {}
        channels, side, stride = in_channels, self.image_size, 1
        for number, (text, layer) in enumerate(zip(layers, parsed, strict=True), start=1):
            built: nn.Module
            if layer["features"]:
                built = _FullyConnected(channels * side * side, layer["features"], norm, dropout)
                channels, side = layer["features"], 1
                shape = ShapeSpec(channels=channels, height=1, width=1)
            else:
                if layer["window"]:
                    built = nn.MaxPool2d(layer["window"])
                    side, stride = side // layer["window"], stride * layer["window"]
                else:
                    built = _convolution(text, channels, layer, padding, norm)
                    channels = layer["channels"]
                    side -= layer["size"] - 1 if padding == "valid" else 0
                shape = ShapeSpec(channels=channels, stride=stride)
            if self.image_size and side < 1:
                raise ValueError(
                    f"plain net {list(layers)}: nothing is left of {image_size} x {image_size} pixels behind {text}"
                )
            self.add_module(f"layer{number}", built)
            self._shapes[f"layer{number}"] = shape

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map pictures (N, in_channels, H, W) to the outputs of all layers, by name.

        Raises:
            ValueError: pictures of another size than the ``FC`` layers were built for.
        """
        size = self.image_size
        if size and x.shape[2:] != (size, size):
            raise ValueError(
                f"images of {x.shape[2]} x {x.shape[3]} pixels for a plain net whose FC layers were built for {size} x "
                f"{size}: set MODEL.PLAIN.IMAGE_SIZE to the size of the images, or INPUT.CLASSIFICATION.CROP to {size}"
            )
        maps = {}
        for name in self._shapes:
            x = maps[name] = self.get_submodule(name)(x)
        return maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels of every layer, and the stride of those before a fully connected one, by name."""
        return dict(self._shapes)


class _FullyConnected(nn.Module):
    """``dropout(relu(norm(linear(x))))``: (N, C, h, w) to (N, features, 1, 1)."""

    def __init__(self, in_features: int, features: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, features, bias=norm == "")
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu")
        if self.linear.bias is not None:
            nn.init.zeros_(self.linear.bias)
        self.norm = norm_layer(norm, features) or nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.out_channels = features

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(F.relu(self.norm(self.linear(x.flatten(1))[..., None, None])))
        return out


def _parsed(text: str) -> dict[str, int]:
    """The numbers of a layer by name; those of other kinds of layers are 0."""
    found = _LAYER.fullmatch(str(text))
    numbers = {name: int(value) for name, value in (found.groupdict() if found else {}).items() if value}
    if not numbers or 0 in numbers.values():
        raise ValueError(
            f"a plain net has no layer {text!r}: write 'C5@20' (a 5x5 convolution to 20 channels), 'MP2' (2x2 max "
            "pooling) or 'FC500' (a fully connected layer to 500 features)"
        )
    return {"size": 0, "channels": 0, "window": 0, "features": 0} | numbers


def _convolution(text: str, in_channels: int, layer: dict[str, int], padding: str, norm: str) -> nn.Module:
    if padding == "same" and layer["size"] % 2 == 0:
        raise ValueError(
            f"plain net: {text} with padding 'same' would shift its map; use an odd size, or 'valid'"
        )
    pad = None if padding == "same" else 0
    return conv(in_channels, layer["channels"], layer["size"], padding=pad, norm=norm, activation=F.relu)


def add_plain_config(cfg: CfgNode) -> None:
    """Add the node ``MODEL.PLAIN``, which the builder below reads, to a detectron2 config."""
    cfg.MODEL.PLAIN = CfgNode()
    cfg.MODEL.PLAIN.LAYERS = ["C5@20", "MP2", "C5@50", "MP2", "FC500"]
    cfg.MODEL.PLAIN.IMAGE_SIZE = 28
    cfg.MODEL.PLAIN.PADDING = "same"
    cfg.MODEL.PLAIN.NORM = ""
    cfg.MODEL.PLAIN.DROPOUT = 0.0


@BACKBONE_REGISTRY.register()
def build_plain_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PlainNet:
    """``MODEL.BACKBONE.NAME: "build_plain_backbone"``: a :class:`PlainNet` as ``MODEL.PLAIN`` says."""
    node = cfg.MODEL.PLAIN
    return PlainNet(
        node.LAYERS,
        image_size=node.IMAGE_SIZE,
        padding=node.PADDING,
        norm=node.NORM,
        dropout=node.DROPOUT,
        in_channels=input_shape.channels or 3,
    )
