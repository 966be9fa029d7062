"""Network in Network: the authors' layers and sizes, and how the classifier stands in for the last convolution."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from det_distill.modeling import NIN
from tests.tiny import build, classifier_cfg, detector_cfg


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("width", "total"), [(1.0, 966_986), (0.45, 198_441)])
def test_wide_and_thin_with_ten_classes_have_as_many_parameters_as_counted(width, total):
    c = [round(n * width) for n in (192, 160, 96)]
    sizes = [
        (3, c[0], 25),
        (c[0], c[1], 1),
        (c[1], c[2], 1),
        (c[2], c[0], 25),
        (c[0], c[0], 1),
        (c[0], c[0], 1),
    ]
    sizes += [(c[0], c[0], 9), (c[0], c[0], 1), (c[0], 10, 1)]
    classifier = c[0] * 10 + 10
    assert parameters(NIN(width=width)) + classifier == sum(i * o * k + o for i, o, k in sizes) == total


def test_the_maps_of_a_small_image_are_halved_twice():
    model = NIN(width=0.1)
    maps = model(torch.rand(2, 3, 32, 32))
    assert {name: tuple(m.shape[1:]) for name, m in maps.items()} == {
        "mlpconv1": (10, 32, 32),
        "mlpconv2": (19, 16, 16),
        "mlpconv3": (19, 8, 8),
    }
    assert [(s.channels, s.stride) for s in model.output_shape().values()] == [(10, 1), (19, 2), (19, 4)]


@pytest.mark.parametrize(("layout", "convolutions"), [("imagenet", 11), ("darkrank", 12)])
def test_the_large_layouts_have_the_strides_of_a_resnet_and_the_embedding_of_darkrank(layout, convolutions):
    model = NIN(layout, norm="BN")
    assert [s.stride for s in model.output_shape().values()] == [4, 8, 16, 32]
    maps = model(torch.rand(1, 3, 224, 112))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        (96, 56, 28),
        (256, 28, 14),
        (384, 14, 7),
        (1024, 7, 3),
    ]
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == convolutions
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == convolutions


def test_pools_are_the_authors_first_the_maximum_then_the_mean_of_three_by_three_without_what_lies_outside():
    model = NIN(width=0.02, dropout=0.0)
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert model.pool1(x).flatten().tolist() == [10, 11, 14, 15]
    assert model.pool2(x).flatten().tolist() == [5, 6.5, 11, 12.5]


def test_linear_classifier_on_the_mean_is_the_authors_mean_of_the_maps_of_classes():
    torch.manual_seed(0)
    cfg = classifier_cfg(classes=5)
    cfg.MODEL.BACKBONE.NAME = "build_nin_backbone"
    cfg.MODEL.NIN.WIDTH = 0.1
    model = build(cfg).eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        maps = model.backbone(x)["mlpconv3"]
        last = nn.Conv2d(maps.shape[1], 5, 1)
        last.weight.copy_(model.classifier.weight[..., None, None])
        last.bias.copy_(model.classifier.bias)
        assert torch.allclose(last(maps).mean(dim=(2, 3)), model.classifier(model.pool(maps)), atol=1e-6)


def test_dropout_is_where_the_authors_have_it_and_in_training_only():
    rates = {n: m.p for n, m in NIN(width=0.1).named_modules() if isinstance(m, nn.Dropout)}
    assert rates == {"pool1.1": 0.5, "pool2.1": 0.5}
    rates = {n: m.p for n, m in NIN("imagenet", width=0.1).named_modules() if isinstance(m, nn.Dropout)}
    assert rates == {"pool1.1": 0.0, "pool2.1": 0.0, "pool3.1": 0.5}
    model, x = NIN(width=0.1).eval(), torch.rand(1, 3, 8, 8)
    assert torch.equal(model(x)["mlpconv3"], model(x)["mlpconv3"])


def test_without_norm_there_are_biases_and_nothing_else():
    assert {key.rpartition(".")[2] for key in NIN(width=0.1).state_dict()} == {"weight", "bias"}


def test_below_a_pyramid_it_ends_with_the_pyramids_last_input():
    cfg = detector_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_nin_fpn_backbone"
    cfg.MODEL.NIN.WIDTH = 0.1
    cfg.MODEL.FPN.IN_FEATURES = ["mlpconv1", "mlpconv2"]
    backbone = build_backbone(cfg)
    assert list(backbone.bottom_up.output_shape()) == ["mlpconv1", "mlpconv2"]
    assert list(backbone(torch.rand(1, 3, 8, 8))) == ["p0", "p1", "p2"]


def test_a_config_says_what_is_built():
    cfg = detector_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_nin_backbone"
    cfg.merge_from_list(["MODEL.NIN.LAYOUT", "imagenet", "MODEL.NIN.WIDTH", 0.125, "MODEL.NIN.NORM", "BN"])
    cfg.merge_from_list(["MODEL.NIN.DROPOUT", 0.25])
    model = build_backbone(cfg, ShapeSpec(channels=1))
    assert model.mlpconv1[0].weight.shape == (12, 1, 11, 11) and isinstance(
        model.mlpconv1[0].norm, nn.BatchNorm2d
    )
    assert model.pool3[1].p == 0.25 and list(model.output_shape())[-1] == "mlpconv4"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "mnist"}, "no layout 'mnist'; it has cifar, imagenet, darkrank"),
        ({"width": 0.0}, "width is above 0"),
        ({"dropout": 1.0}, "dropout is from 0 to below 1"),
        ({"last": "mlpconv4"}, "last is one of mlpconv1, mlpconv2, mlpconv3"),
    ],
)
def test_what_does_not_exist_is_an_error_that_says_what_does(options, message):
    with pytest.raises(ValueError, match=message):
        NIN(**options)
