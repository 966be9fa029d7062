import pytest
import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn

from det_distill.modeling import VGG, add_vgg_config

FEATURES = ("conv1", "conv2", "conv3", "conv4", "conv5", "pool5")


def _cfg(builder: str) -> CfgNode:
    cfg = get_cfg()
    add_vgg_config(cfg)
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.VGG.DEPTH = 11
    return cfg


@pytest.mark.parametrize("height, width", [(32, 64), (33, 47), (63, 40)])
def test_maps_have_the_promised_channels_and_odd_sizes_are_rounded_down(height, width):
    backbone = VGG(11, out_features=FEATURES)
    maps = backbone(torch.zeros(1, 3, height, width))
    assert tuple(maps) == FEATURES
    for name, stride, channels in zip(
        FEATURES, (1, 2, 4, 8, 16, 32), (64, 128, 256, 512, 512, 512), strict=True
    ):
        assert maps[name].shape == (1, channels, height // stride, width // stride)
        assert (backbone.output_shape()[name].channels, backbone.output_shape()[name].stride) == (
            channels,
            stride,
        )


@pytest.mark.parametrize("depth, norm, twin", [(11, "", "vgg11"), (16, "BN", "vgg16_bn"), (19, "", "vgg19")])
def test_torchvisions_weights_fit_by_name_and_give_torchvisions_features(depth, norm, twin):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, twin)().features.eval()
    backbone = VGG(depth, norm=norm, out_features=("conv5", "pool5")).eval()
    backbone.features.load_state_dict(reference.state_dict())
    x = torch.randn(1, 3, 33, 40)
    with torch.no_grad():
        maps = backbone(x)
        assert torch.equal(maps["pool5"], reference(x))
        assert torch.equal(maps["conv5"], reference[:-1](x))


def test_layers_behind_the_last_feature_are_not_built_and_the_order_is_the_callers():
    backbone = VGG(11, out_features=("conv3", "conv1"))
    assert list(backbone(torch.zeros(1, 3, 16, 16))) == ["conv3", "conv1"]
    assert sum(isinstance(m, nn.Conv2d) for m in backbone.modules()) == 4  # blocks of 1, 1 and 2
    assert sum(isinstance(m, nn.MaxPool2d) for m in backbone.modules()) == 2


def test_freezing_two_blocks_of_vgg16_freezes_the_four_convolutions_before_conv3_1_and_their_norms():
    backbone = VGG(16, norm="BN", freeze_at=2)
    convs = [m.weight.requires_grad for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    assert convs == [False] * 4 + [True] * 9
    norms = [type(m) for m in backbone.features if isinstance(m, (FrozenBatchNorm2d, nn.BatchNorm2d))]
    assert norms == [FrozenBatchNorm2d] * 4 + [nn.BatchNorm2d] * 9


def test_a_pyramid_on_vgg_has_the_levels_of_a_resnets():
    cfg = _cfg("build_vgg_fpn_backbone")
    cfg.MODEL.FPN.IN_FEATURES = ["conv3", "conv4", "conv5", "pool5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    backbone = build_backbone(cfg)
    sizes = {k: tuple(v.shape[1:]) for k, v in backbone(torch.zeros(1, 3, 64, 96)).items()}
    assert sizes == {"p2": (8, 16, 24), "p3": (8, 8, 12), "p4": (8, 4, 6), "p5": (8, 2, 3), "p6": (8, 1, 2)}
    cfg.MODEL.FPN.IN_FEATURES = ["res2"]
    with pytest.raises(
        ValueError, match=r"IN_FEATURES \['res2'\] must name features of the backbone, \['conv3'"
    ):
        build_backbone(cfg)


def test_the_config_reaches_the_plain_backbone():
    cfg = _cfg("build_vgg_backbone")
    cfg.merge_from_list(
        ["MODEL.VGG.OUT_FEATURES", "['conv5']", "MODEL.VGG.FREEZE_AT", "1", "MODEL.VGG.NORM", "GN"]
    )
    backbone = build_backbone(cfg)
    assert list(backbone.output_shape()) == ["conv5"]
    assert [m.weight.requires_grad for m in backbone.modules() if isinstance(m, nn.Conv2d)] == [False] + [
        True
    ] * 7
    assert sum(isinstance(m, nn.GroupNorm) for m in backbone.modules()) == 8


@pytest.mark.parametrize(
    "depth, options",
    [(12, {}), (11, {"out_features": ["res4"]}), (11, {"out_features": []}), (11, {"freeze_at": 6})],
)
def test_what_does_not_exist_is_refused_with_the_choices(depth, options):
    with pytest.raises(ValueError, match=r"does not exist: depth is one of \[11, 13, 16, 19\]"):
        VGG(depth, **options)
