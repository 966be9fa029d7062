"""The config of a Faster R-CNN with a pyramid on an imported backbone: how it is built and how it wants its pixels."""

from __future__ import annotations

from typing import Any

import yaml
from detectron2 import model_zoo

from .imported import Imported
from .networks import NETWORKS
from .pixels import detectron2_pixels

__all__ = ["config_of"]

_LEVELS = ["res2", "res3", "res4", "res5"]
_VGG_LEVELS = ["conv3", "conv4", "conv5", "pool5"]
_NODES = ("META_ARCHITECTURE", "ANCHOR_GENERATOR", "RPN", "ROI_HEADS", "ROI_BOX_HEAD")


def config_of(source: Imported, model: str, input_format: str, weights: str) -> dict[str, Any]:
    """Return the keys of a config, those of the backbone and its pixels all said, be they detectron2's defaults or not.

    Pyramid, proposals and heads are those of detectron2's ``Base-RCNN-FPN.yaml``.

    Args:
        source: the network.
        model: its name in its library.
        input_format: ``INPUT.FORMAT``.
        weights: ``MODEL.WEIGHTS``.
    """
    with open(model_zoo.get_config_file("Base-RCNN-FPN.yaml")) as file:
        base = yaml.safe_load(file)["MODEL"]
    mean, std = detectron2_pixels(source.pixels, input_format)
    return {
        "MODEL": {
            **{key: base[key] for key in _NODES},
            "WEIGHTS": weights,
            "PIXEL_MEAN": mean,
            "PIXEL_STD": std,
            "MASK_ON": False,
            **_network(source, model),
        },
        "INPUT": {"FORMAT": input_format},
        "VERSION": 2,
    }


def _network(source: Imported, model: str) -> dict[str, Any]:
    if not source.network:
        return {
            "BACKBONE": {"NAME": "build_timm_fpn_backbone"},
            "TIMM": {"NAME": model.partition(".")[0], "OUT_FEATURES": [*_LEVELS], "FREEZE_NORM": True},
            "FPN": {"IN_FEATURES": _LEVELS},
        }
    network = NETWORKS[source.network]
    if network.vgg:
        norm = "FrozenBN" if network.norm else ""
        return {
            "BACKBONE": {"NAME": "build_vgg_fpn_backbone"},
            "VGG": {"DEPTH": network.depth, "NORM": norm, "OUT_FEATURES": [*_VGG_LEVELS], "FREEZE_AT": 2},
            "FPN": {"IN_FEATURES": _VGG_LEVELS},
        }
    return {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 2},
        "RESNETS": {
            "DEPTH": network.depth,
            "NUM_GROUPS": network.groups,
            "WIDTH_PER_GROUP": network.width,
            "RES2_OUT_CHANNELS": 64 if network.depth < 50 else 256,
            "STRIDE_IN_1X1": source.stride_in_1x1,
            "NORM": "FrozenBN",
            "OUT_FEATURES": [*_LEVELS],
        },
        "FPN": {"IN_FEATURES": _LEVELS},
    }
