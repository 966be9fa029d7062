"""What a method is told of its two sides: which features are known to be no maps, and what is refused for that."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from torch import nn

from det_distill.adapters import Conv1x1
from det_distill.methods import METHODS, Side
from det_distill.taps import FeatureSpec, feature_spec
from tests.tiny import build, classifier_cfg, detector_cfg, distill_cfg, save_teacher

MAPS_ONLY = {
    "AttentionTransfer": {},
    "ChannelWise": {"ADAPTER": "linear"},
    "FEED": {},
    "FSP": {},
    "FactorTransfer": {"PARAPHRASER_KIND": "none"},
    "FeatureMimicking": {"NEIGHBOURHOOD": True},
    "FitNets": {"REGRESSOR": "conv3x3"},
    "MaskedGeneration": {},
    "ReviewFusion": {},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"), detector_cfg())


class Shaped(nn.Module):
    def __init__(self, **shape):
        super().__init__()
        self.output_shape = ShapeSpec(**shape)


@pytest.mark.parametrize(
    "address", ["roi_heads.box_head", "roi_heads.box_predictor:0", "roi_heads.box_predictor.cls_score"]
)
@pytest.mark.parametrize("method", MAPS_ONLY)
def test_a_method_on_maps_refuses_vectors_when_it_is_built(teacher, method, address):
    at = [[address, address]] if method == "FSP" else [address]
    cfg = distill_cfg(detector_cfg(), teacher, {"x": {"METHOD": method, "AT": at, **MAPS_ONLY[method]}})
    with pytest.raises(ValueError, match=rf"^DISTILL.PAIRS.x: {method}.* '{address}' gives vectors"):
        build_model(cfg)


@pytest.mark.parametrize("address", ["pool", "embedding", "classifier"])
@pytest.mark.parametrize("embedding", [0, 5])
def test_the_vectors_of_a_classifier_are_known_to_be_none(address, embedding):
    model = build(classifier_cfg(embedding=embedding))
    side = Side((address,), (feature_spec(model, address),), model=model)
    with pytest.raises(ValueError, match=f"^FEED compares feature maps, and '{address}' gives vectors"):
        side.need_maps("FEED")


@pytest.mark.parametrize(
    "module",
    [
        nn.Identity(),
        nn.Conv2d(2, 3, 1),
        nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 3, 1), nn.ReLU()),
        Shaped(channels=3, stride=8),
        Shaped(channels=3, height=7, width=7),
    ],
)
def test_what_may_be_a_map_is_not_refused_whether_its_stride_is_known_or_not(module):
    Side(("x",), (FeatureSpec(3),), model=nn.ModuleDict({"x": module})).need_maps("FEED")


@pytest.mark.parametrize(
    "module",
    [nn.Linear(2, 3), nn.Sequential(nn.Conv2d(2, 3, 1), nn.Linear(2, 3), nn.ReLU()), Shaped(channels=3)],
)
def test_a_linear_layer_and_a_shape_without_a_size_are_vectors(module):
    model = nn.ModuleDict({"x": module})
    with pytest.raises(ValueError, match="'x' gives vectors"):
        Side(("x",), (FeatureSpec(3),), model=model).need_maps("FEED")
    Side(("x@input",), (FeatureSpec(3),), model=model).need_maps("FEED")  # what goes in may be a map
    Side(("x",), (FeatureSpec(3),)).need_maps("FEED")  # no model: not known


def test_only_one_side_that_is_vectors_is_enough(teacher):
    node = {"METHOD": "AttentionTransfer", "STUDENT": "backbone:p3", "TEACHER": "roi_heads.box_head"}
    with pytest.raises(ValueError, match="'roi_heads.box_head' gives vectors"):
        build_model(distill_cfg(detector_cfg(), teacher, {"x": node}))


def test_the_adapter_of_a_map_whose_stride_is_not_known_is_one_for_maps():
    sides = [Side(("x",), (FeatureSpec(channels),)) for channels in (4, 6)]
    adapter = METHODS["ChannelWise"](*sides).student_adapter
    assert isinstance(adapter, Conv1x1) and adapter(torch.zeros(1, 4, 2, 2)).shape == (1, 6, 2, 2)
