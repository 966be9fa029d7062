"""The best student of a training: by which measure, of which weights, also over an interruption."""

import logging
import math
from contextlib import contextmanager

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, SimpleTrainer
from torch import nn

from det_distill.best import BestCheckpoint
from det_distill.checkpoint import StudentCheckpointer
from det_distill.engine import Trainer, load_config
from tests.tiny import build, classifier_cfg, distill_cfg, save_teacher, write_image_folder


class Counter(nn.Module):
    """A model whose only weight is the number of steps that it has been trained."""

    def __init__(self):
        super().__init__()
        self.steps = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return {"loss": -self.steps}


class Measures(HookBase):
    """Stands for detectron2's EvalHook: the n-th evaluation gives the n-th of `values`."""

    def __init__(self, name, values):
        self.name, self.values, self.results = name, values, {}

    def after_step(self):
        if self.trainer.iter + 1 < self.trainer.max_iter:
            self._measure()

    def after_train(self):
        self._measure()

    def _measure(self):
        number = min(self.trainer.iter, len(self.values) - 1)
        self.results = {self.name: self.values[number], "other": 1.0}


def train(folder, values, *, measure="classification/top1", name=None, start=0, state=None, averaged=None):
    """Train for as many iterations as there are values, each with an evaluation; return the hook."""
    model = Counter()
    with torch.no_grad():
        model.steps.fill_(start)
    trainer = SimpleTrainer(model, [None] * len(values), torch.optim.SGD(model.parameters(), lr=1.0))
    measures = Measures(name or measure, values)
    more = {} if averaged is None else {"averaged": lambda: averaged(model)}
    best = BestCheckpoint(measure, str(folder), 1, lambda: measures.results, **more)
    if state:
        best.load_state_dict(state)
    trainer.register_hooks([measures, best])
    trainer.train(start, len(values))
    return best


def kept(folder):
    """Steps of the kept model, and what the file says of it."""
    content = torch.load(folder / "model_best.pth")
    return content["model"]["steps"].item(), content["best"]["value"], content["best"]["iteration"]


@pytest.mark.parametrize(
    ("measure", "values", "expected"),
    [
        ("classification/top1", [1.0, 3.0, 3.0, 2.0], (2, 3.0, 2)),
        ("classification/top1", [1.0, 2.0, 3.0, 4.0], (4, 4.0, 4)),
        ("classification/top1", [math.nan, 2.0, math.inf, math.nan], (2, 2.0, 2)),
        ("ema/classification/nll", [3.0, 1.0, 1.0, 2.0], (2, 1.0, 2)),
        ("classification/ece", [3.0, 1.0, 1.0, 0.5], (4, 0.5, 4)),
        ("reconstruction/p3_scaled", [3.0, 1.0, 1.0, 2.0], (2, 1.0, 2)),
    ],
)
def test_the_file_has_the_weights_of_the_best_evaluation(tmp_path, measure, values, expected):
    train(tmp_path, values, measure=measure)
    assert kept(tmp_path) == expected


def test_a_resumed_run_goes_on_with_the_best_value_of_its_checkpoint(tmp_path):
    state = train(tmp_path, [1.0, 5.0]).state_dict()
    assert state["value"] == 5.0
    (tmp_path / "model_best.pth").unlink()
    train(tmp_path, [1.0, 5.0, 4.0], start=2, state=state)
    assert not (tmp_path / "model_best.pth").exists()
    train(tmp_path, [1.0, 5.0, 4.0, 6.0], start=3, state=state)
    assert kept(tmp_path) == (4, 6.0, 4)


def test_an_evaluation_behind_the_checkpoint_of_its_iteration_is_found_in_the_file(tmp_path):
    """The checkpoint of iteration 2 is written before the evaluation there, so its best is that of iteration 1."""
    before = train(tmp_path, [1.0]).state_dict()
    train(tmp_path, [1.0, 5.0])
    train(tmp_path, [1.0, 5.0, 4.0], start=2, state=before)
    assert kept(tmp_path) == (2, 5.0, 2)


@pytest.mark.parametrize("start", [0, 1], ids=["a new run", "an earlier checkpoint"])
def test_a_file_of_a_later_iteration_does_not_count(tmp_path, start):
    train(tmp_path, [1.0, 5.0])
    train(tmp_path, [2.0, 4.0], start=start)
    assert kept(tmp_path) == (2, 4.0, 2)


def test_another_measure_begins_anew(tmp_path):
    state = train(tmp_path, [1.0, 5.0]).state_dict()
    train(tmp_path, [0.0, 0.0, 4.0], measure="bbox/AP", start=2, state=state)
    assert kept(tmp_path) == (3, 4.0, 3)


def test_a_measure_of_the_average_keeps_the_averaged_weights(tmp_path):
    @contextmanager
    def averaged(model):
        own = model.steps.item()
        model.steps.data.fill_(0.5)
        yield
        model.steps.data.fill_(own)

    train(tmp_path, [1.0, 2.0], averaged=averaged)
    assert kept(tmp_path) == (2, 2.0, 2)
    train(tmp_path, [1.0, 2.0], measure="ema/bbox/AP", averaged=averaged)
    assert kept(tmp_path) == (0.5, 2.0, 2)


def test_a_measure_that_is_not_there_is_told_once_and_does_not_end_the_training(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path, [1.0, 2.0], measure="top1", name="classification/top1")
    (record,) = caplog.records
    assert "TEST.BEST 'top1' is not among what was measured" in record.message
    assert record.message.endswith("there are classification/top1, other")
    assert not (tmp_path / "model_best.pth").exists()


def test_the_config_asks_for_it_and_the_file_is_a_plain_students(tmp_path):
    cfg = classifier_cfg()
    cfg.DATASETS.IMAGES.best = CfgNode({"ROOT": str(write_image_folder(tmp_path / "images"))})
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("best",)
    cfg.TEST.EVAL_PERIOD, cfg.TEST.BEST, cfg.SOLVER.MAX_ITER = 1, "classification/nll", 3
    pair = {"METHOD": "FeatureMimicking", "AT": ["embedding"], "ADAPTER": "linear"}
    cfg = distill_cfg(cfg, save_teacher(tmp_path, classifier_cfg(depth=14)), {"fm": pair})
    cfg.DISTILL.EVAL_TEACHERS = False
    (tmp_path / "run.yaml").write_text(cfg.dump())
    trainer = Trainer(load_config(str(tmp_path / "run.yaml"), ["OUTPUT_DIR", str(tmp_path / "out")]))
    trainer.resume_or_load(False)
    trainer.train()
    file = tmp_path / "out" / "model_best.pth"
    best = torch.load(file)["best"]
    assert best["measure"] == "classification/nll" and 1 <= best["iteration"] <= 3
    whole = torch.load(tmp_path / "out" / "model_final.pth")
    assert set(torch.load(file)["model"]) == set(trainer.model.student.state_dict())
    assert any(k.startswith("distill.") for k in whole["model"])
    assert set(whole["trainer"]["hooks"]["BestCheckpoint"]) == {"measure", "value", "iteration"}
    student = build(cfg)
    StudentCheckpointer(student).resume_or_load(str(file), resume=False)
    results = trainer.test(trainer.cfg, student)["classification"]
    assert results["nll"] == pytest.approx(best["value"])
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_final.pth"
    empty = trainer.cfg.clone()
    empty.defrost()
    empty.DATASETS.TEST = ()
    with pytest.raises(
        ValueError, match="TEST.BEST 'classification/nll' is not measured: DATASETS.TEST is empty"
    ):
        Trainer(empty)
