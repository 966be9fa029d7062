"""The names of a ResNet's tensors: detectron2's, torchvision's (timm's are the same) and Caffe2's."""

from __future__ import annotations

import re

__all__ = ["COUNTER", "from_caffe2", "from_torchvision", "to_torchvision"]

COUNTER = "num_batches_tracked"
"""How many batches a batch norm saw; frozen ones have none, and with a momentum it is not used."""

_STEM = re.compile(r"stem\.conv1\.(norm\.)?(\w+)")
_BLOCK = re.compile(r"res([2-5])\.(\d+)\.(conv([123])|shortcut)\.(norm\.)?(\w+)")
_TORCHVISION_STEM = re.compile(r"(conv1|bn1)\.(\w+)")
_TORCHVISION_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)")
_CAFFE2_STEM = re.compile(r"(?:conv1|(res_conv1_bn))_(\w+)")
_CAFFE2_BLOCK = re.compile(r"res([2-5])_(\d+)_branch(1|2a|2b|2c)_(bn_)?(\w+)")
_CAFFE2_LAYERS = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE2_TENSORS = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}


def to_torchvision(name: str) -> str:
    """Return torchvision's name of a tensor of detectron2's ResNet.

    ``stem.conv1.norm.bias`` is ``bn1.bias``, ``res2.0.shortcut.weight`` is ``layer1.0.downsample.0.weight``.

    Raises:
        ValueError: a ResNet of torchvision has no such tensor.
    """
    if match := _STEM.fullmatch(name):
        norm, tensor = match.groups()
        return f"{'bn1' if norm else 'conv1'}.{tensor}"
    if match := _BLOCK.fullmatch(name):
        stage, block, _, number, norm, tensor = match.groups()
        place = f"{'bn' if norm else 'conv'}{number}" if number else f"downsample.{1 if norm else 0}"
        return f"layer{int(stage) - 1}.{block}.{place}.{tensor}"
    raise ValueError(f"the tensor {name} has no place in a ResNet of torchvision")


def from_torchvision(name: str) -> str:
    """Return detectron2's name of a tensor of torchvision's ResNet, the inverse of `to_torchvision`.

    Raises:
        ValueError: detectron2's ResNet has no such tensor.
    """
    if match := _TORCHVISION_STEM.fullmatch(name):
        layer, tensor = match.groups()
        return f"stem.conv1.{'norm.' if layer == 'bn1' else ''}{tensor}"
    if match := _TORCHVISION_BLOCK.fullmatch(name):
        stage, block, layer, number, side, tensor = match.groups()
        place = f"conv{number}" if number else "shortcut"
        norm = "norm." if layer == "bn" or side == "1" else ""
        return f"res{int(stage) + 1}.{block}.{place}.{norm}{tensor}"
    raise ValueError(f"the tensor {name} has no place in detectron2's ResNet")


def from_caffe2(name: str) -> str:
    """Return detectron2's name of a blob of a Caffe2 ResNet.

    ``res_conv1_bn_s`` is ``stem.conv1.norm.weight``, ``res2_0_branch2a_w`` is ``res2.0.conv1.weight``.

    Raises:
        ValueError: it is no blob of a ResNet's convolutions and batch norms.
    """
    if match := _CAFFE2_STEM.fullmatch(name):
        norm, tensor = match.groups()
        place, is_norm = "stem.conv1", bool(norm)
    elif match := _CAFFE2_BLOCK.fullmatch(name):
        stage, block, branch, norm, tensor = match.groups()
        place, is_norm = f"res{stage}.{block}.{_CAFFE2_LAYERS[branch]}", bool(norm)
    else:
        raise ValueError(f"the blob {name} has no place in detectron2's ResNet")
    if is_norm and tensor in _CAFFE2_TENSORS:
        return f"{place}.norm.{_CAFFE2_TENSORS[tensor]}"
    if not is_norm and tensor == "w":
        return f"{place}.weight"
    raise ValueError(f"the blob {name} has no place in detectron2's ResNet")
