"""Rule 6: a tap fails when built, or loudly; it never silently records nothing, twice, or something overwritten."""

import pytest
import torch
from torch import nn

from det_distill.taps import AddressError, FeatureTap, TapError, feature_spec
from tests.tiny import build, detector_cfg


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.parts = Parts()
        self.spare = nn.Linear(4, 4)
        self.twice = nn.Tanh()

    def forward(self, x):
        y = self.first(x)
        return self.parts(self.twice(self.twice(y)))["a"]


class Parts(nn.Module):
    def forward(self, x):
        return {"a": x, "list": [x + 1, (x + 2, x + 3)]}


def test_records_outputs_inputs_and_nested_parts():
    net, x = Net(), torch.randn(2, 3)
    tap = FeatureTap(net, ["first", "first@input", "parts:a", "parts:list:1:0"])
    with tap.record() as values:
        y = net(x)
    assert values["first@input"] is x
    assert values["parts:a"] is y
    assert torch.equal(values["parts:list:1:0"], y + 2)
    assert torch.equal(values["first"], net.first(x))


def test_leaves_no_hook_behind_even_after_an_exception():
    net = Net()
    with pytest.raises(ZeroDivisionError), FeatureTap(net, ["first", "first@input"]).record():
        raise ZeroDivisionError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_records_only_what_is_asked_for():
    net = Net()
    with FeatureTap(net, ["first", "parts:a"]).record(only=["first"]) as values:
        net(torch.randn(1, 3))
    assert list(values) == ["first"]


def test_an_unknown_module_is_an_error_that_lists_the_nearest_names():
    with pytest.raises(AddressError, match=r"no module 'fisrt'.*first"):
        FeatureTap(Net(), ["fisrt"])


@pytest.mark.parametrize("address", ["", ":a", "first@output", "first:"])
def test_a_malformed_address_is_an_error(address):
    with pytest.raises(AddressError):
        FeatureTap(Net(), [address])


def test_a_module_that_did_not_run_is_an_error():
    net = Net()
    with pytest.raises(TapError, match="'spare' recorded nothing"), FeatureTap(net, ["spare"]).record():
        net(torch.randn(1, 3))


def test_a_module_that_ran_twice_is_an_error():
    net = Net()
    with pytest.raises(TapError, match="ran 2 times"), FeatureTap(net, ["twice"]).record():
        net(torch.randn(1, 3))


def test_one_of_several_calls_can_be_named_and_must_happen():
    net, x = Net(), torch.randn(1, 3)
    with FeatureTap(net, ["twice#0", "twice#1", "twice@input#1"]).record() as values:
        net(x)
    assert torch.equal(net.twice(values["twice@input#1"]), values["twice#1"])
    assert not torch.equal(values["twice#0"], values["twice#1"])
    with pytest.raises(TapError, match="ran only 2 times"), FeatureTap(net, ["twice#2"]).record():
        net(x)


def test_an_input_can_be_made_differentiable():
    net, x = Net(), torch.randn(1, 3)
    with FeatureTap(net, ["first@input"]).record(differentiable={"first@input"}) as values:
        net(x)
    assert values["first@input"].requires_grad


def test_a_tensor_overwritten_in_place_is_an_error():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    with pytest.raises(TapError, match="overwritten in place"), FeatureTap(net, ["0"]).record():
        net(torch.randn(4, 3))
    with FeatureTap(net, ["1"]).record():
        net(torch.randn(4, 3))


def test_a_missing_key_is_an_error_that_says_what_there_is():
    net = Net()
    with pytest.raises(TapError, match="the keys a, list"), FeatureTap(net, ["parts:b"]).record():
        net(torch.randn(1, 3))


def test_specs_come_from_what_detectron2_declares():
    model = build(detector_cfg(fpn=16))
    assert feature_spec(model, "backbone:p3") == (16, 8)
    assert feature_spec(model, "backbone.bottom_up:res4") == (64, 16)
    assert feature_spec(model, "roi_heads.box_head").channels == 24
    assert feature_spec(model, "roi_heads.box_predictor@input").channels == 24
    assert feature_spec(model, "roi_heads.box_predictor:0").channels == 3
    assert feature_spec(model, "roi_heads.box_head.fc1").channels == 24
    assert feature_spec(model, "proposal_generator.anchor_generator") == (None, None)
    assert feature_spec(model, "backbone.bottom_up.res4.1") == (64, 16)
    assert feature_spec(model, "proposal_generator.rpn_head:0:2") == (3, 16)
    assert feature_spec(model, "proposal_generator.rpn_head:1:4") == (12, 64)
    assert feature_spec(model, "proposal_generator.rpn_head.conv#1") == (16, 8)
    assert feature_spec(model, "proposal_generator.rpn_head:0:7") == (None, None)


def test_a_level_that_the_backbone_lacks_is_an_error_before_anything_runs():
    with pytest.raises(AddressError, match="p2, p3, p4, p5, p6"):
        feature_spec(build(detector_cfg()), "backbone:p7")
