"""RegNets by name: against torchvision's, timm's and detectron2's own; and what a config may ask for."""

import pytest
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.regnet import RegNet, generate_regnet_parameters
from torch import nn

from det_distill.modeling import REGNETS
from tests.tiny import detector_cfg


def cfg_of(name="X_200MF", builder="build_regnet_backbone", **options):
    cfg = detector_cfg()
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.REGNET.NAME = name
    for key, value in options.items():
        cfg.MODEL.REGNET[key] = value
    return cfg


def shapes(model, leave_out="no."):
    """Of all parameters, sorted: names and order differ from library to library."""
    return sorted(tuple(p.shape) for name, p in model.named_parameters() if not name.startswith(leave_out))


@pytest.mark.parametrize("name", ["X_800MF", "X_1.6GF", "Y_400MF", "Y_1.6GF"])
def test_a_network_has_the_layers_of_torchvisions(name):
    twin = getattr(torchvision.models, f"regnet_{name.lower().replace('.', '_')}")
    assert shapes(build_backbone(cfg_of(name))) == shapes(twin(), "fc.")


@pytest.mark.parametrize("name", ["X_400MF", "Y_800MF"])
def test_where_torchvision_rounds_widths_in_another_way_it_is_the_network_of_the_authors(name):
    timm = pytest.importorskip("timm", reason="needs the extra det_distill[timm]")
    authors = timm.create_model(f"regnet{name[0].lower()}_00{name[2]}")
    torchvisions = timm.create_model(f"regnet{name[0].lower()}_00{name[2]}_tv")
    found = shapes(build_backbone(cfg_of(name)))
    assert found == shapes(authors, "head.") != shapes(torchvisions, "head.")


@pytest.mark.parametrize("name", REGNETS)
def test_the_numbers_are_those_of_timm(name):
    timm = pytest.importorskip("timm.models.regnet", reason="needs the extra det_distill[timm]")
    number, unit = float(name[2:-2]), name[-2:]
    theirs = timm.model_cfgs[
        f"regnet{name[0].lower()}_{round(number * 10 if unit == 'GF' else number / 100):03d}"
    ]
    found = (theirs.depth, theirs.wa, theirs.w0, theirs.wm, theirs.group_size, theirs.se_ratio)
    assert tuple(REGNETS[name]) == found and theirs.stem_width == 32


@pytest.mark.parametrize("kind", ["x", "y"])
def test_4gf_is_what_detectron2_configures(kind):
    node = get_config(
        f"COCO-InstanceSegmentation/mask_rcnn_regnet{kind}_4gf_dds_fpn_1x.py"
    ).model.backbone.bottom_up
    design = REGNETS[f"{kind.upper()}_4GF"]
    assert design._asdict() == {"se_ratio": 0.0} | {key: node[key] for key in design._fields if key in node}


@pytest.mark.parametrize("name", REGNETS)
def test_every_network_has_four_stages(name):
    design = REGNETS[name]
    assert generate_regnet_parameters(design.w_a, design.w_0, design.w_m, design.depth)[2] == 4


def test_a_regnet_is_detectron2s_with_four_maps_of_the_usual_strides():
    model = build_backbone(cfg_of())
    assert type(model) is RegNet
    maps = model(torch.rand(1, 3, 64, 96))
    assert [s.stride for s in model.output_shape().values()] == [4, 8, 16, 32]
    for name, shape in model.output_shape().items():
        assert maps[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_a_network_of_ones_own_is_described_by_numbers():
    numbers = {"DEPTH": 13, "W_A": 36.44, "W_0": 24, "W_M": 2.49, "GROUP_WIDTH": 8, "SE_RATIO": 0.25}
    assert shapes(build_backbone(cfg_of("", **numbers))) == shapes(build_backbone(cfg_of("Y_200MF")))


def test_stages_behind_the_last_feature_are_not_built_and_pictures_may_have_one_channel():
    cfg = cfg_of(OUT_FEATURES=["stem", "s2"])
    model = build_backbone(cfg, ShapeSpec(channels=1))
    assert not hasattr(model, "s3") and list(model.output_shape()) == ["stem", "s2"]
    maps = model(torch.rand(2, 1, 32, 32))
    sum(value.sum() for value in maps.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_freezing_two_parts_freezes_the_stem_and_the_first_stage():
    model = build_backbone(cfg_of(FREEZE_AT=2))
    frozen = {name.split(".")[0] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "s1"} and isinstance(model.s1.b1.f.a_bn, FrozenBatchNorm2d)
    assert isinstance(model.s2.b1.f.a_bn, nn.BatchNorm2d)


def test_a_pyramid_on_a_regnet_has_the_levels_of_a_resnets():
    cfg = cfg_of(builder="build_regnet_fpn_backbone")
    cfg.MODEL.FPN.IN_FEATURES = ["s1", "s2", "s3", "s4"]
    assert list(build_backbone(cfg).output_shape()) == ["p2", "p3", "p4", "p5", "p6"]


NUMBERS = {"DEPTH": 13, "W_A": 36.44, "W_0": 24, "W_M": 2.49, "GROUP_WIDTH": 8}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Z_1GF", {}, "'Z_1GF' is none of X_200MF, "),
        ("X_200MF", {"DEPTH": 13}, "set NAME to ''"),
        ("", {}, "DEPTH and GROUP_WIDTH are at least 1"),
        ("", NUMBERS | {"W_0": 20}, "W_0 is a multiple of 8"),
        ("", NUMBERS | {"W_M": 1.0}, "W_M is above 1"),
        ("X_200MF", {"OUT_FEATURES": ["res2"]}, "must name some of stem, s1, s2, s3, s4"),
        ("X_200MF", {"OUT_FEATURES": []}, "must name some of"),
        ("X_200MF", {"NORM": ""}, "needs a norm"),
        ("X_200MF", {"FREEZE_AT": 6}, "freezes 0 to 5"),
    ],
)
def test_what_does_not_exist_is_an_error_that_says_what_does(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg_of(name, **options))
