"""``FEED``: one translator per teacher; what it is for one teacher, for equal ones, and when students teach."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill.config import complete_config, load_teacher
from det_distill.methods import METHODS, Side
from det_distill.pairs import Pair
from det_distill.taps import FeatureSpec
from tests.tiny import batch, detector_cfg, distill_cfg, save_teacher


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def side(channels):
    return Side(("f",), (FeatureSpec(channels, 4),))


def method(name, student, teacher, **options):
    torch.manual_seed(3)  # the same translator every time
    return METHODS[name](side(student), side(teacher), **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "scaled"])
def test_one_teacher_is_factor_transfer_with_an_identity_for_a_paraphraser(reduction):
    feed = method("FEED", 5, 7, reduction=reduction)
    without = method("FactorTransfer", 5, 7, reduction=reduction, paraphraser_kind="none")
    student, teacher = torch.randn(2, 5, 4, 6), torch.randn(2, 7, 4, 6)
    pairs = (
        Pair("f", "f", feed.loss, student_adapter=feed.student_adapter),
        Pair("f", "f", without.loss, student_adapter=without.student_adapter),
        Pair("f", "f", feed.loss, student_adapter=feed.student_adapter, teacher_adapter=nn.Identity()),
    )
    values = [pair({"f": student}, {"f": teacher})[""].item() for pair in pairs]
    assert values[0] > 0 and values == [values[0]] * 3


def test_a_translator_that_changes_nothing_leaves_the_distance_of_the_maps():
    parts = method("FEED", 2, 2, reduction="sum")
    for name, parameter in parts.student_adapter.named_parameters():
        nn.init.zeros_(parameter)
        if name.endswith("weight"):
            parameter.data[[0, 1], [0, 1], 1, 1] = 1
    # (3, 4) becomes (0.6, 0.8) and (0, 2) becomes (0, 1): |d| sums to 0.8
    student, teacher = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1), torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    assert parts.loss(parts.student_adapter(student), teacher).item() == pytest.approx(0.8)


def test_the_teachers_map_stays_raw_and_the_translator_has_three_layers_from_the_students_channels():
    parts = method("FEED", 5, 7, translator_batch_norm=True)
    assert parts.teacher_adapter is None and parts.ensemble is None
    convs = [m for m in parts.student_adapter.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(5, 5), (5, 7), (7, 7)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in parts.student_adapter.modules()) == 3


def several(tmp_path, count, **pair):
    """A student with `count` equal teachers."""
    node = save_teacher(tmp_path, detector_cfg(width=8, fpn=24))
    cfg = distill_cfg(detector_cfg(), node, {})
    cfg.DISTILL.TEACHERS = CfgNode({f"t{i}": CfgNode(dict(node)) for i in range(count)}, new_allowed=True)
    names = [f"t{i}" for i in range(count)]
    pair = {"METHOD": "FEED", "AT": ["backbone:p2"], "TEACHER_NAMES": names, "WEIGHT": 5.0, **pair}
    cfg.DISTILL.PAIRS.feed = CfgNode(pair)
    complete_config(cfg)
    return build_model(cfg).train()


def values(model):
    with EventStorage():
        losses = model(batch())
    return [v for k, v in losses.items() if k.startswith("distill_")]


def tie(model):
    """Give every pair the translator of the first."""
    first, *others = model.distill.by_name().values()
    for pair in others:
        pair.student_adapter.load_state_dict(first.student_adapter.state_dict())


def test_every_teacher_has_a_translator_of_its_own_and_none_is_the_students(tmp_path):
    model = several(tmp_path, 3)
    translators = [pair.student_adapter for pair in model.distill.by_name().values()]
    assert len(translators) == 3
    assert len({id(p) for t in translators for p in t.parameters()}) == 3 * 6
    assert not torch.equal(translators[0].conv0.weight, translators[1].conv0.weight)
    sum(values(model)).backward()
    assert all(p.grad is not None for t in translators for p in t.parameters())
    names = [name for name, _ in model.named_parameters() if "student_adapter" in name]
    assert names and not any(n.startswith("student.") for n in names)


@pytest.mark.parametrize(("aggregate", "times"), [("sum", 3.0), ("mean", 1.0)])
def test_equal_teachers_with_equal_translators_add_up_to_as_many_losses_or_average_to_one(
    tmp_path, aggregate, times
):
    model = several(tmp_path, 3, AGGREGATE=aggregate)
    tie(model)
    alone = several(tmp_path, 1)
    alone.student.load_state_dict(model.student.state_dict())
    first, own = (next(iter(m.distill.by_name().values())).student_adapter for m in (model, alone))
    own.load_state_dict(first.state_dict())
    (single,) = values(alone)
    assert single > 0
    assert sum(values(model)).item() == pytest.approx(times * single.item(), rel=1e-5)


def test_a_student_teaches_the_next_one_with_its_own_config_and_checkpoint(tmp_path):
    first = distill_cfg(
        detector_cfg(),
        save_teacher(tmp_path, detector_cfg(width=8, fpn=24)),
        {"feed": {"METHOD": "FEED", "AT": ["backbone:p2"]}},
    )
    student = build_model(first)
    (tmp_path / "first.yaml").write_text(first.dump())
    torch.save({"model": student.state_dict()}, tmp_path / "first.pth")
    node = {"CONFIG": str(tmp_path / "first.yaml"), "WEIGHTS": str(tmp_path / "first.pth")}
    teacher = load_teacher(node["CONFIG"], node["WEIGHTS"]).model
    own = student.student.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in teacher.state_dict().items())
    second = build_model(
        distill_cfg(detector_cfg(), node, {"feed": {"METHOD": "FEED", "AT": ["backbone:p2"]}})
    )
    assert second.distill["feed_p2"].student_adapter.factor_channels == 16
    assert values(second.train())[0] > 0
