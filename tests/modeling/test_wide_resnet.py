"""Wide residual networks: sizes counted by hand, and layer by layer what attention transfer's code computes."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from det_distill.modeling import WideResNet
from tests.tiny import build, classifier_cfg, detector_cfg


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def counted(depth, width, classes):
    """Weights of every convolution, two numbers per channel of every norm, and a linear layer with bias."""
    blocks = (depth - 4) // 6
    total, channels = 3 * 16 * 9, 16
    for base in (16, 32, 64):
        out = base * width
        total += (blocks - 1) * (2 * out * out * 9 + 2 * 2 * out)
        total += channels * out * 9 + out * out * 9 + 2 * channels + 2 * out
        total += channels * out if channels != out else 0
        channels = out
    return total + 2 * channels + channels * classes + classes


@pytest.mark.parametrize(
    ("depth", "width", "classes", "total"),
    [
        (16, 1, 10, 175_066),
        (16, 2, 10, 691_674),
        (40, 1, 10, 563_930),
        (40, 2, 10, 2_243_546),
        (16, 2, 100, 703_284),
        (40, 2, 100, 2_255_156),
        (28, 10, 10, 36_479_194),
    ],
)
def test_the_classifiers_of_attention_transfer_have_as_many_parameters_as_counted(
    depth, width, classes, total
):
    with torch.device("meta"):
        backbone = WideResNet(depth, width=width)
    channels = backbone.output_shape()["final"].channels
    assert parameters(backbone) + channels * classes + classes == total == counted(depth, width, classes)


def test_the_published_sizes_are_met():
    sizes = {(16, 1): 0.2, (16, 2): 0.7, (40, 1): 0.6, (40, 2): 2.2}
    for (depth, width), millions in sizes.items():
        with torch.device("meta"):
            backbone = WideResNet(depth, width=width)
        assert round((parameters(backbone) + 64 * width * 10 + 10) / 1e6, 1) == millions


@pytest.mark.parametrize("size", [(32, 32), (33, 30)])
def test_maps_have_the_declared_channels_and_strides_rounded_up(size):
    model = WideResNet(10, width=2)
    maps = model(torch.rand(2, 3, *size))
    assert list(maps) == list(model.output_shape()) == ["res2", "res3", "res4", "final"]
    assert [s.stride for s in model.output_shape().values()] == [1, 2, 4, 4]
    for name, shape in model.output_shape().items():
        assert maps[name].shape == (2, shape.channels, *(math.ceil(x / shape.stride) for x in size))


def by_formula(model, x):
    """The network as the authors' code writes it: functions of named tensors."""
    state = model.state_dict()

    def activation(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.relu(F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"]))

    x = F.conv2d(x, state["stem.weight"], padding=1)
    groups = []
    for group, stride in (("res2", 1), ("res3", 2), ("res4", 2)):
        for block in range(2):
            base, step = f"{group}.{block}", stride if block == 0 else 1
            o1 = activation(x, f"{base}.norm1")
            y = F.conv2d(o1, state[f"{base}.conv1.weight"], stride=step, padding=1)
            z = F.conv2d(activation(y, f"{base}.norm2"), state[f"{base}.conv2.weight"], padding=1)
            key = f"{base}.shortcut.weight"
            x = z + F.conv2d(o1, state[key], stride=step) if key in state else z + x
        groups.append(x)
    return [*groups, activation(x, "norm")]


@pytest.mark.parametrize("width", [1, 2])
def test_the_features_are_those_of_the_authors_code(width):
    """Also that the groups' outputs come before the last norm and ReLU: they have negative values."""
    torch.manual_seed(0)
    model = WideResNet(16, width=width).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
            nn.init.normal_(module.bias)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        maps, expected = model(x), by_formula(model, x)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(maps.values(), expected, strict=True))
    assert maps["res4"].min() < 0 <= maps["final"].min()


def test_a_group_bridges_channels_only_where_they_change():
    bridges = {name: block.shortcut is not None for name, block in named_blocks(WideResNet(16, width=1))}
    assert [name for name, there in bridges.items() if there] == ["res3.0", "res4.0"]
    bridges = {name: block.shortcut is not None for name, block in named_blocks(WideResNet(16, width=2))}
    assert [name for name, there in bridges.items() if there] == ["res2.0", "res3.0", "res4.0"]


def named_blocks(model):
    return [(name, module) for name, module in model.named_modules() if hasattr(module, "shortcut")]


def test_dropout_works_in_training_only():
    model = WideResNet(10, dropout=0.5, norm="", width=2)
    x = torch.randn(1, 3, 8, 8)
    assert not torch.equal(model(x)["final"], model(x)["final"])
    assert torch.equal(model.eval()(x)["final"], model(x)["final"])


def test_without_a_norm_convolutions_have_a_bias():
    model = WideResNet(10, norm="")
    assert model.res4[0].conv1.bias is not None and model.res4[0].shortcut.bias is not None
    assert not model.norm.state_dict() and model(torch.rand(1, 3, 8, 8))["final"].shape == (1, 64, 2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 20}, "6n \\+ 4"),
        ({"depth": 4}, "6n \\+ 4"),
        ({"width": 0}, "width is at least 1"),
        ({"dropout": 1.0}, "dropout is from 0 to below 1"),
        ({"norm": "GN"}, "'GN' makes 32 groups, but a layer of this network has 16 channels: use 'BN'"),
        ({"last": "res5"}, "last is one of res2, res3, res4, final"),
    ],
)
def test_a_network_that_does_not_exist_is_an_error_that_says_what_does(options, message):
    with pytest.raises(ValueError, match=message):
        WideResNet(**{"depth": 10, **options})


@pytest.mark.parametrize("last", ["res4", "final"])
def test_below_a_pyramid_the_last_norm_is_built_only_if_the_pyramid_takes_it(last):
    cfg = detector_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_wide_resnet_fpn_backbone"
    cfg.MODEL.WIDE_RESNET.DEPTH = 10
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", last]
    backbone = build_backbone(cfg)
    assert hasattr(backbone.bottom_up, "norm") == (last == "final")
    maps = backbone(torch.rand(2, 3, 16, 16))
    assert list(maps) == ["p0", "p1", "p2", "p3"]
    sum(value.sum() for value in maps.values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_a_pyramid_on_features_that_there_are_not_says_which_there_are():
    cfg = detector_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_wide_resnet_fpn_backbone"
    with pytest.raises(ValueError, match=r"'res5'\] must name features of the backbone, \['res2'.*'res4'\]"):
        build_backbone(cfg)


def test_a_config_says_what_is_built():
    cfg = detector_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_wide_resnet_backbone"
    cfg.merge_from_list(["MODEL.WIDE_RESNET.DEPTH", 22, "MODEL.WIDE_RESNET.WIDTH", 3])
    cfg.merge_from_list(["MODEL.WIDE_RESNET.NORM", "FrozenBN", "MODEL.WIDE_RESNET.DROPOUT", 0.3])
    model = build_backbone(cfg, ShapeSpec(channels=1))
    assert model.output_shape()["final"].channels == 192 and len(model.res2) == 3
    assert model.stem.weight.shape == (16, 1, 3, 3) and isinstance(model.norm, FrozenBatchNorm2d)
    assert model.res3[1].dropout.p == 0.3


def test_a_classifier_pools_behind_the_last_norm():
    cfg = classifier_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_wide_resnet_backbone"
    assert build(cfg).feature == "final"
