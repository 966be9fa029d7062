"""A classifier with a feature pyramid: its file goes back into it, into detectors with a pyramid and without."""

import logging

import pytest
import torch

from det_distill.checkpoint import StudentCheckpointer
from det_distill.export import export_student
from tests.handed import c4_cfg, classifier, detector, load, save, stored
from tests.tiny import build


def pyramid(kind):
    """The classifier of a detector's whole backbone."""
    cfg, other = classifier(kind), detector(kind)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.FPN = other.MODEL.BACKBONE.NAME, other.MODEL.FPN
    cfg.MODEL.RESNETS.OUT_FEATURES = other.MODEL.RESNETS.OUT_FEATURES
    return cfg


def same(state, of, under=""):
    """Whether all tensors of a module are those of a state dict, where their names have `under` in front."""
    own = of.state_dict()
    return bool(own) and all(torch.equal(v, state[under + k]) for k, v in own.items())


def test_its_own_file_loads_and_resumes(tmp_path):
    file = save(tmp_path, pyramid("cifar"))
    assert any(k.startswith("backbone.fpn_lateral") for k in stored(file))
    assert same(stored(file), load(build(pyramid("cifar"), seed=2), file))
    resumed = build(pyramid("cifar"), seed=3)
    checkpointer = StudentCheckpointer(resumed, str(tmp_path))
    assert checkpointer.has_checkpoint()
    checkpointer.resume_or_load("", resume=True)
    assert same(stored(file), resumed)


@pytest.mark.parametrize("kind", ["cifar", "bottleneck"])
def test_all_of_it_arrives_in_a_detector_with_the_same_pyramid(tmp_path, caplog, kind):
    file = save(tmp_path, pyramid(kind))
    with caplog.at_level(logging.INFO):
        model = load(build(detector(kind), seed=9), file)
    assert same(stored(file), model.backbone, "backbone.")
    count = sum(not k.endswith("num_batches_tracked") for k in model.backbone.state_dict())
    said = f"arrived, all {count} tensors of it that this model has, below backbone. Left out: classifier"
    assert said in caplog.text


@pytest.mark.parametrize("kind", ["cifar", "bottleneck"])
def test_what_lies_below_the_pyramid_arrives_in_a_detector_without_one(tmp_path, caplog, kind):
    file = save(tmp_path, pyramid(kind))
    with caplog.at_level(logging.INFO):
        model = load(build(detector(kind, fpn=False), seed=9), file)
    assert same(stored(file), model.backbone, "backbone.bottom_up.")
    assert "below backbone. Left out: " in caplog.text and "backbone.fpn_output2" in caplog.text


def test_below_the_pyramid_res5_is_the_head_of_a_c4_detector(tmp_path, caplog):
    file = save(tmp_path, pyramid("bottleneck"))
    with caplog.at_level(logging.INFO):
        model = load(build(c4_cfg(), seed=9), file)
    assert same(stored(file), model.backbone, "backbone.bottom_up.")
    assert same(stored(file), model.roi_heads.res5, "backbone.bottom_up.res5.")
    assert "below backbone and roi_heads.res5. Left out: backbone.fpn_lateral" in caplog.text
    assert "backbone.bottom_up.res5" not in caplog.text


def test_a_classifier_takes_from_one_with_a_pyramid_and_the_other_way_round(tmp_path):
    file = save(tmp_path, pyramid("cifar"))
    plain = load(build(classifier("cifar"), seed=9), file)
    assert same(stored(file), plain.backbone, "backbone.bottom_up.")
    StudentCheckpointer(plain, str(tmp_path)).save("plain")
    model = build(pyramid("cifar"), seed=4)
    lateral = model.backbone.fpn_lateral0.weight.clone()
    load(model, str(tmp_path / "plain.pth"))
    assert same(plain.backbone.state_dict(), model.backbone.bottom_up)
    assert torch.equal(model.backbone.fpn_lateral0.weight, lateral)


def test_a_pyramid_of_another_width_is_an_error_unless_the_network_below_is_exported(tmp_path):
    file, wide = save(tmp_path, pyramid("cifar")), detector("cifar")
    wide.MODEL.FPN.OUT_CHANNELS = 24
    with pytest.raises(ValueError, match=r"shapes: backbone\.fpn_\S+ .* takes the backbone\.pth that") as e:
        load(build(wide, seed=9), file)
    assert "bottom_up" not in str(e.value)
    export = export_student(pyramid("cifar"), file, tmp_path / "export")
    model = load(build(wide, seed=9), str(export.folder / "backbone.pth"))
    assert all(
        torch.equal(v, stored(file)[f"backbone.bottom_up.{k}"])
        for k, v in model.backbone.bottom_up.state_dict().items()
        if not k.endswith("num_batches_tracked")
    )
