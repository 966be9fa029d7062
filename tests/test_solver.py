"""Optimizers by name, with detectron2's groups; and its schedules, as far as runs depend on them."""

import re
from operator import attrgetter

import pytest
import torch
import yaml
from detectron2 import solver as detectron2_solver
from detectron2.config import CfgNode
from torch import nn

from det_distill.config import get_cfg
from det_distill.solver import OPTIMIZERS, build_lr_scheduler, build_optimizer
from tests.documents import ROOT, blocks_of
from tests.tiny import classifier_cfg


class Net(nn.Module):
    """A layer, a norm of each kind that backbones have, and a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norms = nn.ModuleList([nn.BatchNorm1d(2), nn.LayerNorm(2), nn.GroupNorm(1, 2)])
        self.scale = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def cfg_of(name, **keys):
    cfg = classifier_cfg()
    cfg.SOLVER.update({"OPTIMIZER": name, "BASE_LR": 0.5, "WEIGHT_DECAY": 0.25, **keys})
    return cfg


def settings(optimizer, model):
    """Parameter -> (rate, decay)."""
    names = {p: n for n, p in model.named_parameters()}
    return {names[p]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_norms_and_biases_have_a_decay_and_a_rate_of_their_own(name):
    model = Net()
    keys = {"WEIGHT_DECAY_NORM": 0.0, "WEIGHT_DECAY_BIAS": 0.125, "BIAS_LR_FACTOR": 2.0}
    optimizer = build_optimizer(cfg_of(name, **keys), model)
    assert type(optimizer) is getattr(torch.optim, name)
    norms = {f"norms.{i}": n for i, n in enumerate(model.norms)}
    assert settings(optimizer, model) == {
        "layer.weight": (0.5, 0.25),
        "layer.bias": (1.0, 0.125),
        "scale": (0.5, 0.25),
        **{f"{n}.weight": (0.5, 0.0) for n in norms},
        **{f"{n}.bias": (1.0, 0.125) for n in norms},
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_by_default_norms_are_not_decayed_and_biases_are(name):
    model = Net()
    found = settings(build_optimizer(cfg_of(name), model), model)
    assert found["layer.bias"] == found["layer.weight"] == found["scale"] == (0.5, 0.25)
    assert {v for k, v in found.items() if k.startswith("norms")} == {(0.5, 0.0)}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_clips_gradients_where_the_config_says_so(name):
    cfg, model = cfg_of(name, WEIGHT_DECAY=0.0), Net()
    cfg.SOLVER.CLIP_GRADIENTS.update({"ENABLED": True, "CLIP_TYPE": "value", "CLIP_VALUE": 0.5})
    optimizer = build_optimizer(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 8.0)
    optimizer.step()
    assert isinstance(optimizer, getattr(torch.optim, name))
    assert all((p.grad == (0.5 if p.requires_grad else 8.0)).all() for p in model.parameters())


def test_sgd_is_detectron2s_own():
    model = Net()
    cfg = cfg_of("SGD", NESTEROV=True, MOMENTUM=0.75)
    ours, theirs = (build(cfg, model) for build in (build_optimizer, detectron2_solver.build_optimizer))
    assert repr(ours) == repr(theirs) and "momentum: 0.75" in repr(ours)


def test_adamw_takes_the_decay_off_the_weights_and_adam_adds_it_to_the_gradient():
    weights = {}
    for name in ("Adam", "AdamW"):
        model = Net()
        nn.init.ones_(model.layer.weight)
        optimizer = build_optimizer(cfg_of(name), model)
        model.layer.weight.grad = torch.zeros(2, 2)
        optimizer.step()
        weights[name] = model.layer.weight[0, 0].item()
    assert weights["AdamW"] == pytest.approx(1 - 0.5 * 0.25)
    assert weights["Adam"] == pytest.approx(1 - 0.5)  # Adam's first step is the rate, whatever the gradient


def test_an_unknown_optimizer_is_an_error_that_lists_those_there_are():
    with pytest.raises(
        ValueError, match="SOLVER.OPTIMIZER 'adam' is unknown: choose one of SGD, Adam, AdamW"
    ):
        build_optimizer(cfg_of("adam"), Net())


def test_an_unknown_schedule_is_an_error_that_lists_those_that_this_detectron2_has():
    cfg = cfg_of("SGD", LR_SCHEDULER_NAME="Cosine")
    cfg.SOLVER.pop("NUM_DECAYS", None)
    optimizer = build_optimizer(cfg, Net())
    message = "SOLVER.LR_SCHEDULER_NAME 'Cosine' is unknown: choose one of WarmupMultiStepLR, WarmupCosineLR"
    with pytest.raises(ValueError, match=f"^{message}$"):
        build_lr_scheduler(cfg, optimizer)
    cfg.SOLVER.NUM_DECAYS = 3  # a key of later versions, with the schedule that it belongs to
    with pytest.raises(ValueError, match=f"^{message}, WarmupStepWithFixedGammaLR$"):
        build_lr_scheduler(cfg, optimizer)


def rates(cfg, steps, resume_at=None):
    """The rate of every step, as a fraction of the base rate; saved and loaded before step `resume_at`."""

    def made():
        optimizer = build_optimizer(cfg, Net())
        return optimizer, build_lr_scheduler(cfg, optimizer)

    optimizer, schedule = made()
    found = []
    for step in range(steps):
        if step == resume_at:
            states = optimizer.state_dict(), schedule.state_dict()
            optimizer, schedule = made()
            optimizer.load_state_dict(states[0])
            schedule.load_state_dict(states[1])
        found.append(optimizer.param_groups[0]["lr"] / cfg.SOLVER.BASE_LR)
        optimizer.step()
        schedule.step()
    return found


def test_a_cosine_without_warm_up_begins_at_the_base_rate_and_ends_near_zero():
    found = rates(cfg_of("SGD", LR_SCHEDULER_NAME="WarmupCosineLR", MAX_ITER=1000, WARMUP_ITERS=0), 1000)
    assert found[0] == 1.0 and found[500] == pytest.approx(0.5) and 0 < found[-1] < 1e-5
    assert found == sorted(found, reverse=True)


def test_a_cosine_with_warm_up_joins_the_cosine_where_the_warm_up_ends():
    keys = {"LR_SCHEDULER_NAME": "WarmupCosineLR", "MAX_ITER": 100, "WARMUP_ITERS": 10, "WARMUP_FACTOR": 0.1}
    warm, cold = (rates(cfg_of("SGD", **{**keys, "WARMUP_ITERS": n}), 100) for n in (10, 0))
    assert warm[0] == pytest.approx(0.1) and warm[:11] == sorted(warm[:11]) and warm[10:] == cold[10:]


def test_steps_behind_the_last_iteration_are_left_out():
    found = rates(cfg_of("SGD", STEPS=(3, 900), MAX_ITER=6, WARMUP_ITERS=0), 6)
    assert found == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("name", ["WarmupMultiStepLR", "WarmupCosineLR"])
@pytest.mark.parametrize("resume_at", [2, 7])
def test_a_schedule_is_resumed_exactly_within_and_behind_the_warm_up(name, resume_at):
    cfg = cfg_of("AdamW", LR_SCHEDULER_NAME=name, MAX_ITER=10, STEPS=(5, 8), WARMUP_ITERS=4)
    assert rates(cfg, 10, resume_at) == rates(cfg, 10)


def test_the_page_of_training_has_every_setting_with_its_default_and_an_example_that_is_built():
    rows = re.findall(
        r"^\| `([A-Z.]+)` \| `([^`]+)` \|", (ROOT / "docs/training.md").read_text(), re.MULTILINE
    )
    listed = {key: yaml.safe_load(default) for key, default in rows if "." in key}
    keys = ["SOLVER.OPTIMIZER", "SOLVER.AMP.PRECISION", "SOLVER.ACCUMULATE", "MODEL.COMPILE", "TEST.BEST"]
    assert listed == {key: attrgetter(key)(get_cfg()) for key in keys}
    (example,) = (block for block in blocks_of("docs/training.md") if block.language == "yaml")
    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(example.text)))
    optimizer = build_optimizer(cfg, Net())
    assert isinstance(optimizer, torch.optim.AdamW) and len(build_lr_scheduler(cfg, optimizer).get_lr()) == 2
