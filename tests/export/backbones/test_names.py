"""Names of tensors: each one has its counterpart, and the way there and back ends where it began."""

import pytest
import torch
import torchvision
from detectron2.checkpoint.c2_model_loading import convert_basic_c2_names

from det_distill.export.backbones.names import from_caffe2, from_torchvision, to_torchvision


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_every_tensor_of_torchvisions_resnets_goes_to_detectron2_and_back(name):
    with torch.device("meta"):
        names = [k for k in torchvision.models.get_model(name).state_dict() if not k.startswith("fc.")]
    here = [from_torchvision(k) for k in names]
    assert len(set(here)) == len(names) and [to_torchvision(k) for k in here] == names


def test_the_norm_of_the_stem_and_of_a_shortcut_are_where_detectron2_has_them():
    assert from_torchvision("bn1.bias") == "stem.conv1.norm.bias"
    assert from_torchvision("layer1.0.downsample.0.weight") == "res2.0.shortcut.weight"
    assert from_torchvision("layer4.1.downsample.1.running_var") == "res5.1.shortcut.norm.running_var"
    assert from_torchvision("layer2.3.bn2.weight") == "res3.3.conv2.norm.weight"


@pytest.mark.parametrize("name", ["fc.weight", "layer5.0.conv1.weight", "layer1.0.se.weight", "conv2.weight"])
def test_other_tensors_have_no_place(name):
    with pytest.raises(ValueError, match=f"{name} has no place in detectron2's ResNet"):
        from_torchvision(name)
    with pytest.raises(ValueError, match="has no place in a ResNet of torchvision"):
        to_torchvision(f"res6.{name}")


def test_blobs_of_caffe2_get_the_names_that_detectron2_gives_them():
    stem = ["conv1_w", "res_conv1_bn_s", "res_conv1_bn_b"]
    ends = ["w", "bn_s", "bn_b", "bn_rm", "bn_riv"]
    blobs = stem + [f"res4_22_branch{b}_{e}" for b in ("1", "2a", "2b", "2c") for e in ends]
    assert [from_caffe2(b) for b in blobs] == convert_basic_c2_names(blobs)


@pytest.mark.parametrize(
    "blob", ["conv1_b", "fc1000_w", "pred_b", "res2_0_branch2a_gn_s", "res2_0_branch2a_b"]
)
def test_other_blobs_have_no_place(blob):
    with pytest.raises(ValueError, match=f"the blob {blob} has no place"):
        from_caffe2(blob)
