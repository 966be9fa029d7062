"""Seeds that survive a resume, and hash calibration."""

import random
from types import SimpleNamespace

import numpy as np
import torch
from detectron2.utils.events import EventStorage

from det_distill import Distiller, Pair, Pairs
from det_distill.data.loader import seed_everything
from det_distill.hooks import CalibrateHashes, RunSeed, calibrate_hashes
from det_distill.losses import L2, LSH
from tests.tiny import batch, build, detector_cfg


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
