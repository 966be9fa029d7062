"""Seeds that survive a resume, hash calibration, and teachers that are measured once."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from detectron2.utils.events import EventStorage

from det_distill import Distiller, Pair, Pairs
from det_distill.data.loader import seed_everything
from det_distill.hooks import (
    CalibrateHashes,
    EvaluateTeachers,
    RunSeed,
    calibrate_hashes,
    data_digest,
    measure_before_testing,
)
from det_distill.losses import L2, LSH, SoftTarget
from det_distill.tasks import task_of
from tests.tiny import batch, build, classifier_cfg, detector_cfg


def test_seeding_reaches_every_generator_and_mixes_all_numbers():
    def draw(*numbers):
        seed_everything(*numbers)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw(1, 2, 3) == draw(1, 2, 3)
    draws = {draw(1, 2, 3), draw(1, 2, 4), draw(1, 3, 3), draw(2, 2, 3), draw(3, 2, 1)}
    assert len(draws) == 5 and len({d[2] for d in draws}) == 5


def test_a_run_without_a_seed_draws_one_and_its_checkpoint_brings_it_back():
    first, second = RunSeed(-1), RunSeed(5)
    second.load_state_dict(first.state_dict())
    assert second() == first() >= 0


def distiller(hashes):
    pair = Pair("roi_heads.box_head", "roi_heads.box_head", hashes)
    student, teacher = build(detector_cfg(norm="BN")), build(detector_cfg(), 1)
    return Distiller(student=student, pairs=Pairs(h=pair), teachers={"t": teacher})


def test_the_bias_is_minus_the_median_of_the_teachers_projections():
    model = distiller(LSH.random(24, 6, 1.0, bias="median"))
    lsh = model.distill["h"].losses["loss"]
    rows = []
    hook = model.teachers["t"].model.roi_heads.box_head.register_forward_hook(
        lambda m, a, out: rows.append(out)
    )
    state, statistics = (
        torch.get_rng_state(),
        {k: v.clone() for k, v in model.state_dict().items() if "student" in k},
    )
    calibrate_hashes(model.eval(), [batch(seed=1), batch(seed=2)])
    hook.remove()
    assert torch.allclose(lsh.bias, -(torch.cat(rows) @ lsh.weight.T).median(0).values, atol=1e-4)
    assert not model.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, statistics[k]) for k, v in model.state_dict().items() if k in statistics)


def test_a_calibrated_loss_stays_calibrated_through_its_state():
    model = distiller(LSH.random(24, 6, 1.0, bias="mean"))
    calibrate_hashes(model, [batch()])
    other = distiller(LSH.random(24, 6, 1.0, bias="mean"))
    other.load_state_dict(model.state_dict(), strict=True)
    assert not other.distill["h"].losses["loss"].needs_calibration
    with EventStorage():
        assert other.train()(batch())["distill_h"].isfinite()


def test_all_processes_start_with_the_first_ones_hash_weights(monkeypatch):
    """detectron2 wraps the model without sharing buffers, and each process draws with a seed of its own."""
    model, shared = distiller(LSH.random(24, 6, 1.0)), []
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.broadcast", lambda buffer, source: shared.append((buffer, source)))
    hook = CalibrateHashes(3)
    hook.trainer = SimpleNamespace(model=model, data_loader=None)
    hook.before_train()
    lsh = model.distill["h"].losses["loss"]
    assert any(buffer is lsh.weight for buffer, _ in shared) and {source for _, source in shared} == {0}


def test_a_teachers_feature_comes_with_its_own_stride():
    student, teacher = build(detector_cfg()), build(detector_cfg(), 1)
    pair = Pair("backbone:p3", "backbone:p4", L2(), align="resize", stride=8, teacher_stride=16)
    model = Distiller(student=student, pairs=Pairs(fm=pair), teachers={"t": teacher})
    with EventStorage():
        _, _, seen = model.train().observe(batch())
    feature, stride = model.teacher_feature("fm", seen)
    assert stride == 16 and feature.shape[-1] * 16 >= 96 > feature.shape[-1] * 8


def trained_with(cfg, model, teachers_hook):
    """Run a hook before the first step; what it logged."""
    teachers_hook.trainer = SimpleNamespace(model=model, cfg=cfg)
    with EventStorage() as storage:
        teachers_hook.trainer.storage = storage
        teachers_hook.before_train()
    return {key: value for key, (value, _) in storage.latest().items()}


def classifiers(tmp_path):
    """A distilled classifier's config, and the model."""
    cfg = classifier_cfg()
    cfg.MODEL.META_ARCHITECTURE, cfg.OUTPUT_DIR = "Distiller", str(tmp_path)
    cfg.DATASETS.TEST = ("pictures",)
    cfg.DISTILL.TEACHERS.big = CfgNode({})
    pair = Pair("classifier", "classifier", SoftTarget(temperature=4.0))
    student, teacher = build(classifier_cfg()), build(classifier_cfg(), 1)
    return cfg, Distiller(student=student, pairs=Pairs(kd=pair), teachers={"big": teacher})


def evaluate_with(cfg, model):
    """The results of a model on four pictures, by the evaluator of a config."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 8, 8), generator=g, dtype=torch.uint8)
    batch = [{"image_id": i, "label": i % 2, "image": image} for i, image in enumerate(images)]
    return inference_on_dataset(model, [batch], task_of(cfg).evaluator(cfg, "pictures"))


def test_after_the_hook_every_evaluation_of_the_student_tells_the_agreement(tmp_path):
    cfg, model = classifiers(tmp_path)
    assert "agreement-big" not in evaluate_with(cfg, model)["classification"]
    hook = EvaluateTeachers(lambda teacher: evaluate_with(cfg, teacher), str(tmp_path), data_digest(cfg))
    logged = trained_with(cfg, model, hook)
    assert {"big/classification/top1", "big/classification/ece"} < set(logged)
    assert not [key for key in logged if "agreement" in key]
    agreement = evaluate_with(cfg, model)["classification"]["agreement-big"]
    model.student.load_state_dict(model.teachers["big"].model.state_dict())
    assert agreement < 100.0 == evaluate_with(cfg, model)["classification"]["agreement-big"]


def test_teachers_that_are_not_to_be_measured_have_no_agreement(tmp_path):
    cfg, model = classifiers(tmp_path)
    measure_before_testing(cfg, model, evaluate_with)
    assert "agreement-big" in evaluate_with(cfg, model)["classification"]
    cfg.DISTILL.EVAL_TEACHERS = False
    assert "agreement-big" not in evaluate_with(cfg, model)["classification"]


def test_without_a_training_the_teacher_is_run_only_if_its_predictions_are_missing(tmp_path):
    cfg, model = classifiers(tmp_path)
    cfg.DISTILL.EVAL_TEACHERS = False
    measure_before_testing(cfg, model, lambda cfg, teacher: pytest.fail("measured"))
    cfg.DISTILL.EVAL_TEACHERS = True
    hook = EvaluateTeachers(lambda teacher: evaluate_with(cfg, teacher), str(tmp_path), data_digest(cfg))
    trained_with(cfg, model, hook)
    measure_before_testing(cfg, model, lambda cfg, teacher: pytest.fail("measured again"))
    cfg.INPUT.CLASSIFICATION.CROP = 6
    times = []
    measure_before_testing(cfg, model, lambda cfg, teacher: times.append(1) or evaluate_with(cfg, teacher))
    assert times == [1]


@pytest.mark.parametrize("kind", ["VOC", "COCO", "IMAGES", "TORCHVISION"])
def test_another_definition_of_a_test_set_is_another_measurement(kind):
    cfg = classifier_cfg()
    cfg.DATASETS.TEST = ("pictures", "built_in")
    seen = {data_digest(cfg)}
    for split in ("test", "test[:5000]"):
        cfg.DATASETS[kind].pictures = CfgNode({"SPLIT": split})
        seen.add(data_digest(cfg))
    cfg.DATASETS[kind].for_training = CfgNode({"SPLIT": "train"})
    assert data_digest(cfg) in seen and len(seen) == 3


def test_a_detector_is_not_measured_twice_for_an_agreement(tmp_path):
    cfg, model = detector_cfg(), distiller(LSH.random(24, 6, 1.0))
    cfg.MODEL.META_ARCHITECTURE, cfg.DATASETS.TEST = "Distiller", ("boxes",)
    measure_before_testing(cfg, model, lambda cfg, teacher: pytest.fail("measured"))
    times = []
    hook = EvaluateTeachers(lambda teacher: times.append(1) or {"bbox": {"AP": 12.0}}, str(tmp_path), "data")
    assert trained_with(cfg, model, hook) == trained_with(cfg, model, hook) == {"t/bbox/AP": 12.0}
    assert times == [1] and [p.name for p in tmp_path.iterdir()] == ["teachers.json"]
