"""Plain networks: the papers' lists of layers, by hand, and lists that make no network."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from det_distill.modeling import PlainNet
from det_distill.taps import feature_spec
from tests.tiny import build, classifier_cfg

LENET = ["C5@20", "MP2", "C5@50", "MP2", "FC500"]


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("layers", "options", "total"),
    [
        (LENET, {"padding": "valid"}, (25 * 20 + 20) + (20 * 25 * 50 + 50) + (50 * 16 * 500 + 500)),
        (LENET, {}, (25 * 20 + 20) + (20 * 25 * 50 + 50) + (50 * 49 * 500 + 500)),
        (["FC800", "FC800"], {}, (784 * 800 + 800) + (800 * 800 + 800)),
        (["FC1200", "FC1200"], {}, (784 * 1200 + 1200) + (1200 * 1200 + 1200)),
        (
            ["C5@64", "MP2", "C5@128", "MP2", "FC1024"],
            {"image_size": 32, "in_channels": 3},
            (75 * 64 + 64) + (64 * 25 * 128 + 128) + (128 * 64 * 1024 + 1024),
        ),
        (
            ["C5@32", "MP3", "C5@64", "MP3", "FC1024"],
            {"image_size": 32, "in_channels": 3},
            (75 * 32 + 32) + (32 * 25 * 64 + 64) + (64 * 9 * 1024 + 1024),
        ),
    ],
)
def test_the_networks_of_the_papers_have_as_many_parameters_as_counted(layers, options, total):
    with torch.device("meta"):
        model = PlainNet(layers, **{"image_size": 28, "in_channels": 1, **options})
    assert parameters(model) == total


def test_every_layer_is_a_feature_and_its_shape_is_declared():
    model = PlainNet(LENET, image_size=28, in_channels=1)
    maps = model(torch.rand(2, 1, 28, 28))
    sizes = [(20, 28, 28), (20, 14, 14), (50, 14, 14), (50, 7, 7), (500, 1, 1)]
    assert [tuple(m.shape[1:]) for m in maps.values()] == sizes
    assert list(maps) == list(model.output_shape()) == [f"layer{n}" for n in range(1, 6)]
    assert [s.channels for s in model.output_shape().values()] == [20, 20, 50, 50, 500]
    assert [s.stride for s in model.output_shape().values()] == [1, 2, 2, 4, None]


def test_the_output_is_that_of_the_layers_by_hand():
    torch.manual_seed(0)
    model = PlainNet(["C3@4", "MP3", "FC5", "FC6"], image_size=10, padding="valid")
    x = torch.randn(2, 3, 10, 10)
    state = model.state_dict()
    y = F.relu(F.conv2d(x, state["layer1.weight"], state["layer1.bias"]))  # 8 x 8
    y = F.max_pool2d(y, 3, 3).flatten(1)  # 2 x 2
    for layer in ("layer3", "layer4"):
        y = F.relu(F.linear(y, state[f"{layer}.linear.weight"], state[f"{layer}.linear.bias"]))
    assert torch.allclose(model(x)["layer4"].flatten(1), y, atol=1e-6)


def test_without_fully_connected_layers_any_size_will_do():
    model = PlainNet(["C3@4", "MP2", "C3@8"], image_size=28)
    assert model(torch.rand(1, 3, 10, 14))["layer3"].shape == (1, 8, 5, 7)


def test_images_of_another_size_than_was_built_for_are_an_error_that_names_both_sizes():
    model = PlainNet(["MP2", "FC4"], image_size=8)
    with pytest.raises(
        ValueError, match=r"images of 8 x 10 pixels .* built for 8 x 8: set MODEL.PLAIN.IMAGE_SIZE"
    ):
        model(torch.rand(1, 3, 8, 10))


def test_a_norm_takes_the_place_of_biases_and_dropout_comes_behind_each_fully_connected_layer():
    model = PlainNet(["C3@4", "FC8", "FC8"], image_size=4, norm="BN", dropout=0.5)
    assert model.layer1.bias is None and model.layer2.linear.bias is None
    assert isinstance(model.layer1.norm, nn.BatchNorm2d) and isinstance(model.layer3.norm, nn.BatchNorm2d)
    x = torch.rand(4, 3, 4, 4)
    assert not torch.equal(model(x)["layer3"], model(x)["layer3"])
    assert torch.equal(model.eval()(x)["layer3"], model(x)["layer3"])


def test_a_signal_keeps_its_size_through_wide_layers():
    torch.manual_seed(0)
    model = PlainNet(["FC1024"] * 4, image_size=16)
    out = model(torch.randn(8, 3, 16, 16))
    assert 0.5 < float(out["layer4"].detach().square().mean()) < 2


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (["C5"], {}, r"no layer 'C5': write 'C5@20'"),
        (["c5@20"], {}, "no layer 'c5@20'"),
        (["C5@20-MP2"], {}, "no layer 'C5@20-MP2'"),
        (["FC0"], {}, "no layer 'FC0'"),
        ([], {}, "a plain net of 0 layers"),
        (["FC8", "MP2"], {}, "nothing but FC layers can come behind an FC layer"),
        (["FC8"], {"image_size": 0}, "need the pixels of a side, MODEL.PLAIN.IMAGE_SIZE"),
        (["C4@8"], {}, "C4@8 with padding 'same'"),
        (["C9@8", "FC8"], {"padding": "valid"}, "nothing is left of 8 x 8 pixels behind C9@8"),
        (["MP2", "MP5", "FC8"], {}, "nothing is left of 8 x 8 pixels behind MP5"),
        (["MP2"], {"padding": "full"}, "padding is 'same' or 'valid'"),
        (["MP2"], {"dropout": 1.0}, "dropout is from 0 to below 1"),
    ],
)
def test_what_makes_no_network_is_an_error_that_says_why(layers, options, message):
    with pytest.raises(ValueError, match=message):
        PlainNet(layers, **{"image_size": 8, **options})


def test_a_config_says_what_is_built():
    cfg = classifier_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_plain_backbone"
    cfg.merge_from_list(["MODEL.PLAIN.LAYERS", "['C4@6', 'FC7']", "MODEL.PLAIN.IMAGE_SIZE", 8])
    cfg.merge_from_list(
        ["MODEL.PLAIN.PADDING", "valid", "MODEL.PLAIN.NORM", "BN", "MODEL.PLAIN.DROPOUT", 0.5]
    )
    model = build_backbone(cfg, ShapeSpec(channels=1))
    assert model.layer1.weight.shape == (6, 1, 4, 4) and model.layer2.linear.weight.shape == (7, 150)
    assert model.layer2.dropout.p == 0.5 and isinstance(model.layer2.norm, nn.BatchNorm2d)


def test_a_classifier_reads_the_last_layer_and_an_adapter_learns_its_width():
    cfg = classifier_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_plain_backbone"
    cfg.MODEL.PLAIN.LAYERS = ["C3@4", "MP2", "FC16"]
    cfg.MODEL.PLAIN.IMAGE_SIZE = 8
    model = build(cfg)
    assert model.feature == "layer3" and feature_spec(model, "pool").channels == 16
    assert feature_spec(model, "backbone:layer3") == feature_spec(model, "backbone.layer3") == (16, None)
    assert feature_spec(model, "backbone:layer2") == (4, 2)
