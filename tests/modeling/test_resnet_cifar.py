"""The residual networks for small images: sizes by the paper, shortcuts by hand, and as a detector's bottom-up part."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill.modeling import CifarResNet
from det_distill.taps import FeatureTap, feature_spec
from tests.tiny import batch, build, detector_cfg


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85), (110, 1.7)])
def test_with_ten_classes_it_has_as_many_parameters_as_the_paper_says(depth, millions):
    classifier = 64 * 10 + 10
    total = (parameters(CifarResNet(depth)) + classifier) / 1e6
    assert round(total, 2 if millions < 1 else 1) == millions


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44])
def test_depth_counts_the_convolutions_on_the_longest_way_and_the_classifier(depth):
    convolutions = [m for m in CifarResNet(depth).modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) + 1 == depth


def test_the_parameters_of_a_wide_one_with_projections_counted_by_hand():
    """8x4: a stem of 32, one block in each of 64, 128, 256 channels, three projections; a norm has two per channel."""
    widths = [(32, 64), (64, 128), (128, 256)]
    expected = 3 * 32 * 9 + 2 * 32
    for i, o in widths:
        expected += (i * o * 9 + 2 * o) + (o * o * 9 + 2 * o) + (i * o + 2 * o)
    assert parameters(CifarResNet(8, width=4, stem_width=32, shortcut="B")) == expected


@pytest.mark.parametrize("size", [(32, 32), (33, 30)])
@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_maps_have_the_declared_channels_and_strides_rounded_up(size, shortcut):
    model = CifarResNet(8, shortcut=shortcut)
    maps = model(torch.zeros(2, 3, *size))
    assert list(maps) == ["res2", "res3", "res4"]
    assert {n: s.stride for n, s in model.output_shape().items()} == {"res2": 1, "res3": 2, "res4": 4}
    for name, shape in model.output_shape().items():
        assert maps[name].shape == (2, shape.channels, *(math.ceil(x / shape.stride) for x in size))


def test_the_free_shortcut_takes_every_second_pixel_and_appends_zeros():
    block = CifarResNet(8).res3[0]
    nn.init.zeros_(block.conv2.norm.weight)  # nothing but the shortcut is left
    x = torch.rand(1, 16, 6, 6)
    out = block.eval()(x)
    assert torch.equal(out[:, :16], x[:, :, ::2, ::2])
    assert out.shape == (1, 32, 3, 3) and not out[:, 16:].any()


def test_within_a_stage_the_shortcut_is_the_input_itself():
    block = CifarResNet(14, shortcut="B").res3[1]
    assert block.shortcut is None
    nn.init.zeros_(block.conv2.norm.weight)
    x = torch.rand(1, 32, 4, 4)
    assert torch.equal(block.eval()(x), x)


def test_weights_begin_with_the_variance_that_keeps_the_signal():
    conv = CifarResNet(20).res4[2].conv1
    assert float(conv.weight.std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.03)
    assert conv.bias is None
    assert CifarResNet(8, norm="").res4[0].conv1.bias is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 18}, "6n \\+ 2"),
        ({"depth": 2}, "6n \\+ 2"),
        ({"width": 0}, "width is at least 1"),
        ({"shortcut": "C"}, "shortcut is 'A' or 'B'"),
        ({"stem_width": 32}, "a stem of 32 channels before a stage of 16 needs shortcut 'B'"),
    ],
)
def test_a_network_that_does_not_exist_is_an_error_that_lists_those_that_do(options, message):
    with pytest.raises(ValueError, match=message):
        CifarResNet(**{"depth": 8, **options})


def test_blocks_and_their_convolutions_can_be_tapped():
    model = nn.ModuleDict({"backbone": CifarResNet(14)})
    addresses = ["backbone:res3", "backbone.res3.0", "backbone.res3.1.conv2", "backbone.stem"]
    with FeatureTap(model, addresses).record() as values:
        model["backbone"](torch.randn(1, 3, 8, 8))
    assert values["backbone:res3"].shape == values["backbone.res3.1.conv2"].shape == (1, 32, 4, 4)
    assert feature_spec(model, "backbone.res3.0") == feature_spec(model, "backbone:res3") == (32, 2)


@pytest.fixture
def cfg():
    made = detector_cfg()
    made.MODEL.BACKBONE.NAME = "build_cifar_resnet_fpn_backbone"
    made.MODEL.CIFAR_RESNET.DEPTH = 8
    made.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    made.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32]]
    made.MODEL.RPN.IN_FEATURES = ["p1", "p2", "p3"]
    made.MODEL.ROI_HEADS.IN_FEATURES = ["p1", "p2"]
    return made


def test_a_detector_can_be_built_on_it(cfg):
    model = build(cfg).train()
    assert {n: s.stride for n, s in model.backbone.output_shape().items()} == {
        "p0": 1,
        "p1": 2,
        "p2": 4,
        "p3": 8,
    }
    with EventStorage():
        losses = model(batch(((32, 48), (40, 32))))
    sum(losses.values()).backward()
    assert model.backbone.bottom_up.stem.weight.grad.isfinite().all()


def test_a_config_says_what_is_built(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_cifar_resnet_backbone"
    cfg.merge_from_list(["MODEL.CIFAR_RESNET.WIDTH", 2, "MODEL.CIFAR_RESNET.SHORTCUT", "B"])
    cfg.merge_from_list(["MODEL.CIFAR_RESNET.NORM", "GN", "MODEL.CIFAR_RESNET.STEM_WIDTH", 64])
    model = build_backbone(cfg, ShapeSpec(channels=1))
    assert model.output_shape()["res4"].channels == 128
    assert model.stem.weight.shape == (64, 1, 3, 3) and isinstance(model.stem.norm, nn.GroupNorm)
