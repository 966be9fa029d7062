"""Attention transfer, channel-wise distillation, Pearson correlation and hints, in a config on a detector."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill.adapters import Conv1x1, Conv3x3, Linear
from det_distill.losses import L2, AttentionTransfer, ChannelWise, Pearson
from det_distill.methods import METHODS, Side
from det_distill.taps import FeatureSpec
from tests.tiny import batch, detector_cfg, distill_cfg, save_teacher


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"), detector_cfg(width=8, fpn=24))


@pytest.fixture(autouse=True)
def storage():
    torch.manual_seed(0)
    with EventStorage():
        yield


def side(channels, stride=8, address="backbone:p3"):
    return Side((address,), (FeatureSpec(channels, stride),))


def made(teacher, pair, **distill):
    cfg = distill_cfg(detector_cfg(), teacher, {"x": {"AT": ["backbone:p3"], **pair}})
    cfg.merge_from_list([item for key, value in distill.items() for item in (f"DISTILL.{key}", value)])
    return build_model(cfg).train()


@pytest.mark.parametrize(
    ("method", "adapter"),
    [("AttentionTransfer", None), ("ChannelWise", Conv1x1), ("Pearson", Conv1x1), ("FitNets", Conv1x1)],
)
def test_a_detector_learns_from_a_wider_one_through_a_config(teacher, method, adapter):
    model = made(teacher, {"METHOD": method})
    pair = model.distill["x_p3"]
    assert type(pair.student_adapter) is (adapter or type(None)) and pair.teacher_adapter is None
    value = model(batch())["distill_x_p3"]
    assert value.isfinite() and value > 0
    value.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.student.backbone.bottom_up.parameters())
    if adapter:
        assert pair.student_adapter.weight.grad.any()


def test_the_options_reach_the_losses():
    maps = METHODS["AttentionTransfer"](side(4), side(6), map="max_p", p=0.5, outer="scaled").loss
    assert isinstance(maps, AttentionTransfer) and (maps.map, maps.p, maps.outer) == ("max_p", 0.5, "scaled")
    channels = METHODS["ChannelWise"](side(4), side(4), temperature=3.0).loss
    assert isinstance(channels, ChannelWise) and channels.temperature == 3
    assert isinstance(METHODS["Pearson"](side(4), side(4)).loss, Pearson)
    assert isinstance(METHODS["FitNets"](side(4), side(4)).loss, L2)


@pytest.mark.parametrize("method", ["ChannelWise", "Pearson", "FitNets"])
def test_equal_channels_need_no_adapter(method):
    assert METHODS[method](side(4), side(4)).student_adapter is None


@pytest.mark.parametrize(
    ("regressor", "stride", "kind"),
    [
        ("auto", 8, Conv1x1),
        ("auto", None, Linear),
        ("conv1x1", 8, Conv1x1),
        ("conv3x3", 8, Conv3x3),
        ("linear", None, Linear),
    ],
)
def test_the_regressor_of_hints_is_the_one_asked_for(regressor, stride, kind):
    for channels in (
        (6, 4) if regressor != "auto" else (6,)
    ):  # one that is named is there for equal channels, too
        adapter = METHODS["FitNets"](
            side(4, stride), side(channels, stride), regressor=regressor
        ).student_adapter
        assert type(adapter) is kind and adapter.weight.shape[:2] == (channels, 4)


def test_a_three_by_three_regressor_keeps_the_size_and_sees_the_neighbours():
    regressor, x = Conv3x3(4, 6), torch.zeros(1, 4, 5, 7)
    still = regressor(x)
    assert still.shape == (1, 6, 5, 7)
    x[0, 0, 2, 3] = 1.0
    changed = (regressor(x) - still).abs().sum((0, 1)) > 0
    assert changed.nonzero().tolist() == [[y, x] for y in (1, 2, 3) for x in (2, 3, 4)]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ({"METHOD": "AttentionTransfer", "MAP": "mean"}, "'mean'"),
        ({"METHOD": "AttentionTransfer", "P": 0.0}, "above 0"),
        ({"METHOD": "AttentionTransfer", "OUTER": "l1"}, "'l1'"),
        ({"METHOD": "AttentionTransfer", "AT": [["backbone:p3", "backbone:p4"]]}, "2 addresses"),
        ({"METHOD": "ChannelWise", "TEMPERATURE": 0.0}, "temperature"),
        ({"METHOD": "ChannelWise", "ADAPTER": "conv"}, "ADAPTER 'conv'"),
        ({"METHOD": "Pearson", "ADAPTER": "none"}, r"Conv1x1\(16, 24\)"),
        ({"METHOD": "FitNets", "REGRESSOR": "mlp"}, "REGRESSOR 'mlp'"),
        ({"METHOD": "FitNets", "REGRESSOR": "linear"}, "is a map"),
    ],
)
def test_options_that_make_no_sense_are_told_when_the_model_is_built(teacher, pair, message):
    with pytest.raises(ValueError, match=rf"PAIRS.x.*{message}|pair 'x_p3'.*{message}"):
        made(teacher, pair)


def test_the_first_stage_of_hint_training_moves_the_student_up_to_the_guided_layer_only(teacher):
    guided = [f"backbone.bottom_up.{stage}" for stage in ("stem", "res2", "res3", "res4")]
    model = made(
        teacher,
        {"METHOD": "FitNets", "AT": ["backbone.bottom_up:res4"]},
        TASK_WEIGHT=0.0,
        TRAIN_ONLY=guided,
    )
    losses = model(batch())
    assert all(value == 0 for name, value in losses.items() if not name.startswith("distill"))
    sum(losses.values()).backward()
    moved = {name for name, p in model.student.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(".res4." in name for name in moved)
    assert all(name.startswith(tuple(guided)) for name in moved)
    regressor = model.distill["x_res4"].student_adapter
    assert isinstance(regressor, nn.Conv2d) and regressor.weight.grad.any()
