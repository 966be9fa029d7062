"""The report of which loss moves the backbone: norms by hand, and a training that does not notice."""

import copy
import logging

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill import Distiller, Pair, Pairs
from det_distill.gradient_share import GradientShare, gradient_norms
from det_distill.losses import L2, LSH
from tests.tiny import batch, build, detector_cfg


class Line(nn.Module):
    """Losses that are linear in the backbone's two weights."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False)

    def forward(self, batch):
        first, second = self.backbone.weight[0]
        return {
            "loss_a": 3 * first + 4 * second + 0 * self.head.weight.sum(),  # the norm is 5
            "loss_b": -15 * second,
            "loss_head": self.head.weight.sum(),
            "loss_constant": torch.zeros(()),
        }


def distiller(**pair):
    pairs = Pairs(
        p3=Pair("backbone:p3", "backbone:p3", L2(), **pair),
        box=Pair(
            "roi_heads.box_head",
            "roi_heads.box_head",
            LSH.random(24, 8, 1.0, generator=torch.Generator().manual_seed(2)),
        ),
    )
    return Distiller(build(detector_cfg(norm="BN")), pairs, {"t": build(detector_cfg(), 1)})


def train(model, iterations, *hooks, data=None):
    torch.manual_seed(0)
    trainer = SimpleTrainer(
        model.train(), [data or batch()] * iterations, torch.optim.SGD(model.parameters(), 1e-3)
    )
    trainer.register_hooks(hooks)
    trainer.train(0, iterations)
    return trainer


def scalars(trainer):
    return {
        name: history.values() for name, history in trainer.storage.histories().items() if "gradient" in name
    }


def test_norms_and_shares_by_hand():
    logged = {k: v[0][0] for k, v in scalars(train(Line(), 1, GradientShare(1))).items()}
    norms = {"loss_a": 5.0, "loss_b": 15.0, "loss_head": 0.0, "loss_constant": 0.0}
    assert logged == pytest.approx(
        {f"gradient/{k}": v for k, v in norms.items()}
        | {f"gradient_share/{k}": v / 20 for k, v in norms.items()}
    )


def test_it_is_measured_every_so_many_iterations_and_the_hook_is_gone_in_between():
    model = Line()
    trainer = train(model, 8, GradientShare(3))
    assert [iteration for _, iteration in scalars(trainer)["gradient/loss_a"]] == [0, 3, 6]
    assert not model._forward_hooks


def test_the_norm_is_that_of_the_gradient_that_the_term_alone_would_give():
    model = distiller(weight=7.0).train()
    parameters = list(model.student.backbone.parameters())
    with EventStorage():
        losses = model(batch())
        norms = gradient_norms(losses, parameters)
    assert set(norms) == set(losses) > {"distill_p3", "distill_box", "loss_cls", "loss_rpn_cls"}
    assert not any(p.grad is not None for p in model.parameters())
    for name, value in losses.items():
        model.zero_grad()
        value.backward(retain_graph=True)
        expected = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm()
        torch.testing.assert_close(norms[name], expected, rtol=1e-4, atol=0)


def test_training_is_bitwise_the_same_with_and_without_it():
    state, streams = [], []
    for hooks in ([], [GradientShare(2)]):
        model = distiller()
        train(model, 4, *hooks)
        state.append(model.state_dict())
        streams.append(torch.get_rng_state())
    assert all(torch.equal(value, state[1][name]) for name, value in state[0].items())
    assert torch.equal(*streams)
    begin = distiller().state_dict()
    assert any(not torch.equal(value, begin[name]) for name, value in state[0].items() if "backbone" in name)


def test_a_plain_detector_has_shares_of_its_own_losses():
    model = build(detector_cfg())
    logged = scalars(train(model, 1, GradientShare(1)))
    names = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    assert set(logged) == {f"{kind}/{name}" for kind in ("gradient", "gradient_share") for name in names}
    assert sum(logged[f"gradient_share/{name}"][0][0] for name in names) == pytest.approx(1)


def test_a_pair_that_is_off_has_no_share():
    logged = scalars(train(distiller(start=5), 1, GradientShare(1)))
    assert logged["gradient_share/distill_p3"][0][0] == 0 < logged["gradient_share/distill_box"][0][0]


def test_another_module_than_the_backbone_can_be_shared():
    logged = scalars(train(Line(), 1, GradientShare(1, "head")))
    assert logged["gradient/loss_head"][0][0] == 1 and logged["gradient/loss_b"][0][0] == 0


def test_only_parameters_that_are_trained_count():
    model = distiller()
    for parameter in model.student.backbone.bottom_up.parameters():
        parameter.requires_grad_(False)
    with EventStorage():
        torch.manual_seed(0)
        expected = gradient_norms(
            model.train()(batch()), [p for p in model.student.backbone.parameters() if p.requires_grad]
        )
    logged = scalars(train(model, 1, GradientShare(1)))
    assert logged["gradient/distill_p3"][0][0] == pytest.approx(expected["distill_p3"].item())


def test_the_log_has_one_line_with_every_term(caplog):
    caplog.set_level(logging.INFO, "det_distill")
    train(Line(), 1, GradientShare(1))
    lines = [r.getMessage() for r in caplog.records if r.name == "det_distill.gradient_share"]
    assert lines == [
        "iter 0: gradient at backbone  loss_a: 5 (25%)  loss_b: 15 (75%)  loss_head: 0 (0%)  loss_constant: 0 (0%)"
    ]


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_under_distributed_training_it_measures_the_same_and_changes_nothing(one_process):
    results = []
    for wrap, hooks in [(False, [GradientShare(1)]), (True, [GradientShare(1)]), (True, [])]:
        model = distiller()
        wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False) if wrap else model
        results.append((scalars(train(wrapped, 2, *hooks)), copy.deepcopy(model.state_dict())))
    (plain, _), (logged, state), (_, without) = results
    first = [{k: v[0][0] for k, v in curves.items()} for curves in (plain, logged)]
    assert first[1] == pytest.approx(first[0])
    assert all(torch.equal(value, without[name]) for name, value in state.items())


class Half(nn.Module):
    """A loss whose gradient passes through float16, where 1e-9 is zero and anything above 65504 infinite."""

    def __init__(self, factor):
        super().__init__()
        self.backbone, self.factor = nn.Linear(1, 1, bias=False), factor

    def forward(self, batch):
        return {"loss": self.backbone.weight.half().float().sum() * self.factor}


class Scaler:
    def get_scale(self):
        return 2.0**16


class ScaledTrainer(SimpleTrainer):
    grad_scaler = Scaler()


@pytest.mark.parametrize(("factor", "expected"), [(1e-9, {"loss": 1e-9}), (10.0, {})])
def test_losses_are_scaled_as_the_gradient_scaler_does_and_an_overflow_is_not_logged(factor, expected):
    model = Half(factor)
    trainer = ScaledTrainer(model.train(), [None], torch.optim.SGD(model.parameters(), 0.0))
    trainer.register_hooks([GradientShare(1)])
    trainer.train(0, 1)
    logged = {k.split("/")[1]: v[0][0] for k, v in scalars(trainer).items() if k.startswith("gradient/")}
    assert logged == pytest.approx(expected, rel=1e-2)
    assert gradient_norms(model(None), list(model.parameters()))["loss"] == (0 if expected else 10)


class AccumulatingTrainer(SimpleTrainer):
    """Runs the model twice a step, the second time with twice the gradient."""

    def run_step(self):
        for factor in (1.0, 2.0):
            self.model.factor = factor
            self.model(None)["loss"].backward()


def test_of_several_forward_passes_in_a_step_the_first_is_measured():
    model = Half(0.0)
    trainer = AccumulatingTrainer(model.train(), [None], torch.optim.SGD(model.parameters(), 0.0))
    trainer.register_hooks([GradientShare(1)])
    trainer.train(0, 1)
    assert scalars(trainer)["gradient/loss"][0][0] == 1


def test_a_model_that_returns_one_loss_has_one_share():
    class One(Line):
        def forward(self, batch):
            return sum(super().forward(batch).values())

    assert scalars(train(One(), 1, GradientShare(1)))["gradient_share/total_loss"][0][0] == 1


def test_a_step_without_any_gradient_at_the_backbone_has_zero_shares():
    class Head(Line):
        def forward(self, batch):
            return {"loss_head": super().forward(batch)["loss_head"]}

    assert scalars(train(Head(), 1, GradientShare(1)))["gradient_share/loss_head"][0][0] == 0


@pytest.mark.parametrize(
    ("path", "frozen", "words"),
    [
        ("bakcbone", False, "no module 'bakcbone'.*backbone"),
        ("backbone", True, "'backbone' is trained.*PERIOD: 0"),
    ],
)
def test_a_student_without_that_module_or_with_nothing_to_train_in_it_is_an_error_before_training(
    path, frozen, words
):
    model = Line()
    model.backbone.requires_grad_(not frozen)
    with pytest.raises(ValueError, match=words):
        train(model, 1, GradientShare(1, path))


def test_a_period_of_zero_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        GradientShare(0)
