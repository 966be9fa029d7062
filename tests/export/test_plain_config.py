"""The plain student's config: loadable by stock detectron2 wherever the student is one of its models."""

from functools import reduce
from operator import getitem

import pytest
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model

from det_distill import get_cfg
from det_distill.export import needs_det_distill, plain_config
from tests.tiny import classifier_cfg, detector_cfg, distill_cfg

PAIRS = {"ft": {"METHOD": "FactorTransfer", "AT": ["backbone:p3"]}}


def distilled():
    return distill_cfg(detector_cfg(), {"CONFIG": "nowhere.yaml", "WEIGHTS": "nowhere.pth"}, PAIRS)


def test_stock_detectron2_loads_and_builds_it(tmp_path):
    cfg = distilled()
    cfg.DATASETS.VOC.shapes = CfgNode({"ROOT": "somewhere", "SPLIT": "all"})
    plain = plain_config(cfg)
    (tmp_path / "config.yaml").write_text(plain.dump())
    stock = get_detectron2_cfg()
    stock.merge_from_file(str(tmp_path / "config.yaml"))
    assert type(build_model(stock)).__name__ == "GeneralizedRCNN"
    assert not needs_det_distill(plain)


def test_every_key_that_detectron2_knows_keeps_its_value():
    cfg = distilled()
    plain = plain_config(cfg)
    expected = cfg.clone()
    expected.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    del expected["DISTILL"], expected["PROGRESS_BAR"], expected.INPUT["CLASSIFICATION"]
    ours, theirs = get_cfg(), get_detectron2_cfg()
    for path in ("DATALOADER", "DATASETS", "MODEL", "SOLVER", "SOLVER.AMP", "TEST"):
        node, all_keys, known = (reduce(getitem, path.split("."), cfg) for cfg in (expected, ours, theirs))
        for key in all_keys.keys() - known.keys():
            del node[key]
    assert plain == expected
    assert cfg.MODEL.META_ARCHITECTURE == "Distiller" and "DISTILL" in cfg  # the given one is not changed


@pytest.mark.parametrize("norm", ["", "BN"])
def test_a_backbone_of_det_distill_keeps_its_own_options_and_says_whom_it_needs(tmp_path, norm):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_vgg_fpn_backbone"
    cfg.MODEL.VGG.NORM = norm
    plain = plain_config(cfg)
    assert needs_det_distill(plain)
    (tmp_path / "config.yaml").write_text(plain.dump())
    again = get_cfg()
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert again.MODEL.VGG == cfg.MODEL.VGG and again.MODEL.BACKBONE == cfg.MODEL.BACKBONE


def test_a_classifier_keeps_how_its_images_are_prepared_and_a_detector_has_no_such_keys():
    cfg = classifier_cfg()
    assert plain_config(cfg).INPUT.CLASSIFICATION == cfg.INPUT.CLASSIFICATION
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    assert "CLASSIFICATION" not in plain_config(cfg).INPUT


def test_how_the_student_was_compiled_in_training_is_none_of_its_users_business():
    cfg = distilled()
    cfg.MODEL.COMPILE = "inductor"
    assert "COMPILE" not in plain_config(cfg).MODEL and not needs_det_distill(plain_config(cfg))


def test_a_config_that_trains_paraphrasers_is_no_students():
    cfg = distilled()
    cfg.MODEL.META_ARCHITECTURE = "ParaphraserPretrainer"
    with pytest.raises(ValueError, match="trains no student"):
        plain_config(cfg)
