"""The moving average of the student: by hand, resumed, swapped in and out, written for other tools."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer
from torch import nn

from det_distill import Distiller, Pair, Pairs
from det_distill.adapters import Conv1x1
from det_distill.data.noise import noise_with_label
from det_distill.ema import WeightAverage
from det_distill.losses import L2
from tests.tiny import build, classifier_cfg


class Counter(nn.Module):
    """The first step moves the weight from 0 to 1, the second to 2; a buffer of each kind does the same."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("statistic", torch.tensor(0.0))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, _):
        self.statistic += 1
        self.count += 1
        return -self.weight


def train(model, steps, *hooks, start=0, rate=1.0, data=None):
    trainer = SimpleTrainer(model, [data] * steps, torch.optim.SGD(model.parameters(), lr=rate))
    trainer.register_hooks(hooks)
    trainer.train(start, steps)
    return trainer  # hooks only hold a weak reference


def images():
    generator = torch.Generator().manual_seed(0)
    return [noise_with_label(8, 8, 2, generator) for _ in range(4)]


def averaged(hook):
    return {k: v.item() for k, v in hook.state_dict()["average"].items()}


def test_the_average_by_hand(tmp_path):
    hook = WeightAverage(0.75, str(tmp_path), 10, warmup=False)
    train(Counter(), 3, hook)
    # 0 -> 0.25 * 1 -> 0.75 * 0.25 + 0.25 * 2 -> ...
    assert averaged(hook) == {"weight": 1.265625, "statistic": 1.265625, "count": 3}


def test_with_a_warm_up_the_first_steps_count_more(tmp_path):
    hook = WeightAverage(0.15, str(tmp_path), 10)
    train(Counter(), 3, hook)
    expected = 0.0
    for weight, decay in ((1, 1 / 10), (2, 0.15), (3, 0.15)):  # 2 / 11 and 3 / 12 are above 0.15
        expected = decay * expected + (1 - decay) * weight
    assert averaged(hook)["weight"] == pytest.approx(expected)


def test_it_is_kept_in_float32_beside_weights_in_half_precision(tmp_path):
    hook, model = WeightAverage(0.999, str(tmp_path), 10, warmup=False), Counter().bfloat16()
    train(model, 2, hook)
    assert hook.state_dict()["average"]["weight"].dtype == torch.float32
    assert averaged(hook)["weight"] == pytest.approx(0.999 * 0.001 + 0.001 * 2)


def test_a_resumed_average_goes_on_where_it_was_and_a_new_one_begins_with_the_weights_there(tmp_path):
    straight = WeightAverage(0.9, str(tmp_path), 10)
    train(Counter(), 4, straight)
    first, model = WeightAverage(0.9, str(tmp_path), 10), Counter()
    train(model, 2, first)
    resumed, late = WeightAverage(0.9, str(tmp_path), 10), WeightAverage(0.9, str(tmp_path), 10)
    resumed.load_state_dict(first.state_dict())
    train(model, 4, resumed, late, start=2)
    assert averaged(resumed) == averaged(straight)
    assert averaged(late)["weight"] == pytest.approx((0.1 * 2 + 0.9 * 3) * 2 / 11 + 4 * 9 / 11)


def test_in_the_block_the_student_is_the_averaged_one_and_after_it_its_own_bitwise(tmp_path):
    model, hook = build(classifier_cfg()), WeightAverage(0.5, str(tmp_path), 10)
    _trainer = train(model, 2, hook, rate=0.1, data=images())
    own = {k: v.clone() for k, v in model.state_dict().items()}
    average = hook.state_dict()["average"]
    with pytest.raises(KeyboardInterrupt), hook.applied():
        assert all(torch.equal(v, average[k]) for k, v in model.state_dict().items())
        raise KeyboardInterrupt
    assert all(torch.equal(v, own[k]) for k, v in model.state_dict().items())
    moved = [k for k in own if own[k].is_floating_point() and not torch.equal(own[k], average[k])]
    assert any("running_mean" in k for k in moved) and "classifier.weight" in moved


def test_the_file_is_a_plain_student_that_detectron2_loads(tmp_path):
    pair = Pair("backbone:res3", "backbone:res3", L2(), student_adapter=Conv1x1(32, 32))
    model = Distiller(build(classifier_cfg()), Pairs(fm=pair), {"t": build(classifier_cfg(depth=14), 1)})
    hook = WeightAverage(0.5, str(tmp_path), 2)
    _trainer = train(model, 3, hook, rate=0.1, data=images())
    plain = build(classifier_cfg(), seed=9)
    incompatible = DetectionCheckpointer(plain)._load_model(torch.load(tmp_path / "model_ema.pth"))
    assert not (incompatible.missing_keys or incompatible.unexpected_keys or incompatible.incorrect_shapes)
    with hook.applied():
        expected = model.student.state_dict()
        assert all(torch.equal(v, expected[k]) for k, v in plain.state_dict().items())
    assert [f.name for f in tmp_path.iterdir()] == ["model_ema.pth"]


def test_the_file_is_written_with_every_checkpoint_and_at_the_end_by_the_first_process_alone(
    tmp_path, monkeypatch
):
    written = []
    monkeypatch.setattr(
        "torch.save", lambda content, file: written.append(content) or open(file, "w").close()
    )
    train(Counter(), 5, WeightAverage(0.5, str(tmp_path), 2))
    assert len(written) == 3 and (tmp_path / "model_ema.pth").is_file()
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    hook = WeightAverage(0.5, str(tmp_path), 2)
    train(Counter(), 5, hook)
    assert len(written) == 3 and averaged(hook)["weight"] > 0


@pytest.mark.parametrize("decay", [-0.1, 0.0, 1.0, 2.0])
def test_a_decay_that_is_no_share_is_an_error(tmp_path, decay):
    with pytest.raises(ValueError, match="SOLVER.EMA.DECAY .* above 0 and below 1"):
        WeightAverage(decay, str(tmp_path), 2)


def test_the_average_of_another_student_is_an_error(tmp_path):
    first, other = WeightAverage(0.5, str(tmp_path), 2), WeightAverage(0.5, str(tmp_path), 2)
    train(Counter(), 1, first)
    other.load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="is that of another student"):
        train(nn.Linear(1, 1), 1, other)
