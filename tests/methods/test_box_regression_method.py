"""``BoxRegression`` reads from the two models' predictors what would make the deltas incomparable."""

import pytest
from detectron2.modeling import build_model

from tests.tiny import detector_cfg, distill_cfg, save_teacher

DELTAS = "roi_heads.box_predictor:1"


def cfg_of(classes=2, agnostic=False, weights=(10.0, 10.0, 5.0, 5.0)):
    cfg = detector_cfg(classes=classes)
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = agnostic
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = weights
    return cfg


def made(folder, student, teacher, address=DELTAS):
    node = {"METHOD": "BoxRegression", "AT": [address]}
    return build_model(distill_cfg(student, save_teacher(folder, teacher), {"box": node}))


@pytest.mark.parametrize("address", [DELTAS, "roi_heads.box_predictor.bbox_pred"])
def test_deltas_that_are_scaled_by_other_weights_are_refused_when_built(tmp_path, address):
    with pytest.raises(
        ValueError,
        match=r"^DISTILL.PAIRS.box: .*by \(10.0, 10.0, 5.0, 5.0\), the teacher by \(20.0, .*BBOX_REG_WEIGHTS",
    ):
        made(tmp_path, cfg_of(), cfg_of(weights=(20.0, 20.0, 10.0, 10.0)), address)


def test_deltas_for_other_numbers_of_classes_are_refused_when_built(tmp_path):
    with pytest.raises(ValueError, match="^DISTILL.PAIRS.box: .*boxes for 2 classes, the teacher for 3"):
        made(tmp_path, cfg_of(), cfg_of(classes=3))


@pytest.mark.parametrize("agnostic", [(True, False), (False, True), (True, True)])
def test_boxes_that_do_not_depend_on_the_class_fit_a_teacher_of_any_classes(tmp_path, agnostic):
    model = made(tmp_path, cfg_of(agnostic=agnostic[0]), cfg_of(classes=3, agnostic=agnostic[1]))
    assert list(model.distill) == ["box_box_predictor_1"]


@pytest.mark.parametrize("address", ["roi_heads.box_predictor:0", "roi_heads.box_predictor.cls_score"])
def test_class_logits_are_refused_also_where_their_number_is_a_multiple_of_four(tmp_path, address):
    with pytest.raises(ValueError, match=f"^DISTILL.PAIRS.box: .*'{address}' gives class logits"):
        made(tmp_path, cfg_of(classes=3), cfg_of(classes=3), address)
