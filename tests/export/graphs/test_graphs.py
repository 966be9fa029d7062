"""A graph gives what detectron2's model gives, to the last bit, before any exporter sees it."""

import pytest
import torch

from det_distill.export.check import DoesNotFit
from det_distill.export.graphs.build import graph_of
from det_distill.export.graphs.compare import of_model
from tests.export.graphs.graph_models import fpn_cfg, photo, request, retinanet_cfg, spread
from tests.tiny import build

SIZES = [(96, 131), (150, 97), (64, 64), (33, 40)]


@pytest.mark.parametrize("kind", ["fpn", "c4", "retinanet"])
@pytest.mark.parametrize("size", SIZES)
def test_a_graph_finds_what_the_detector_finds(kind, size):
    model, image = request(kind).model, photo(*size)
    expected = of_model(model, image)
    graph = graph_of(model)
    with torch.no_grad():
        found = dict(zip(graph.outputs, graph.module(image.float()), strict=True))
    assert len(expected["scores"]) > 3
    assert all(torch.equal(expected[name], found[name]) for name in graph.outputs)


def test_a_graph_gives_a_classifiers_logits():
    asked = request("classifier")
    expected = of_model(asked.model, asked.images[0])["logits"]
    assert torch.equal(graph_of(asked.model).module(asked.images[0].float()), expected)


@pytest.mark.parametrize("kind", ["fpn", "c4", "retinanet"])
def test_no_detection_is_no_error(kind):
    graph = graph_of(request(kind).model, score_threshold=2.0)
    boxes, scores, classes = graph.module(photo(96, 131).float())
    assert boxes.shape == (0, 4) and scores.shape == classes.shape == (0,) and classes.dtype == torch.int64


def test_no_proposal_is_no_error():
    model = request("fpn").model
    model.proposal_generator.min_box_size = 1e4
    boxes, scores, _ = graph_of(model).module(photo(96, 131).float())
    assert boxes.shape == (0, 4) and scores.shape == (0,)


def test_class_agnostic_boxes_belong_to_every_class():
    cfg = fpn_cfg()
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    model, image = spread(build(cfg)), photo(96, 131)
    expected, found = of_model(model, image), graph_of(model).module(image.float())
    assert len(expected["scores"]) > 3 and torch.equal(expected["boxes"], found[0])


def test_the_student_itself_is_not_changed():
    model = request("fpn").model
    before = [type(m).__name__ for m in model.modules()]
    graph_of(model)
    assert [type(m).__name__ for m in model.modules()] == before
    assert any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ROI_HEADS.NAME": "CascadeROIHeads", "ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True}, "no cascade"),
        ({"MASK_ON": True, "ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead"}, "MODEL.MASK_ON False"),
        ({"ROI_BOX_HEAD.POOLER_TYPE": "ROIPool"}, "POOLER_TYPE"),
    ],
)
def test_parts_without_a_graph_are_named_with_a_way_out(change, says):
    cfg = fpn_cfg()
    for key, value in change.items():
        cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(DoesNotFit, match=says) as error:
        graph_of(build(cfg).eval())
    assert "safetensors" in str(error.value)


def test_a_model_of_another_kind_is_refused():
    cfg = retinanet_cfg()
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    with pytest.raises(DoesNotFit, match="ProposalNetwork has no graph"):
        graph_of(build(cfg).eval())
