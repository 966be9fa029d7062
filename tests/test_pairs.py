"""Pairs: schedules, alignment of unequal maps, padding, and what is refused when built."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from det_distill.adapters import Conv1x1, Linear
from det_distill.alignment import align_maps
from det_distill.losses import L2, FactorTransfer, GradientAttention
from det_distill.padding import image_sizes, valid_cells
from det_distill.pairs import Pair, Pairs
from det_distill.selection import Selection
from det_distill.taps import FeatureSpec
from det_distill.targets import Step


def value(pair, student, teacher, **kwargs):
    terms = pair({"a": student}, {"a": teacher}, Step(**kwargs))
    return sum(terms.values())


def test_the_schedule_starts_warms_up_linearly_and_stops():
    pair = Pair("a", "a", L2(), start=2, stop=8, warmup=4)
    assert [pair.schedule(i) for i in range(9)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 0]


def test_weight_and_schedule_multiply_the_loss():
    s, t = torch.zeros(2, 3), torch.full((2, 3), 2.0)
    pair = Pair("a", "a", L2(), weight=5.0, warmup=4)
    assert value(pair, s, t, iteration=1) == 5.0 * 0.5 * 4.0


def test_named_losses_share_the_adapter_and_have_weights_of_their_own():
    pair = Pair("a", "a", {"x": L2(), "y": L2()}, weight={"x": 1.0, "y": 3.0}, student_adapter=Linear(2, 3))
    terms = pair({"a": torch.randn(4, 2)}, {"a": torch.randn(4, 3)})
    assert set(terms) == {"x", "y"}
    assert torch.allclose(terms["y"], 3 * terms["x"])
    assert len(list(pair.parameters())) == 2


def test_a_pair_that_is_off_reads_nothing_and_gives_a_zero_attached_to_its_adapter():
    pair = Pair("a", "a", L2(), start=5, student_adapter=Conv1x1(2, 3))
    (zero,) = pair({}, {}, Step(iteration=0)).values()
    zero.backward()
    assert zero == 0
    assert all(p.grad is not None and not p.grad.any() for p in pair.parameters())


@pytest.mark.parametrize(("student", "teacher"), [((5, 7), (6, 8)), ((6, 7), (5, 8)), ((5, 8), (6, 8))])
def test_maps_of_unequal_rounding_are_compared_on_their_common_part(student, teacher):
    s, t = torch.randn(2, 3, *student), torch.randn(2, 3, *teacher)
    h, w = min(student[0], teacher[0]), min(student[1], teacher[1])
    expected = (s[..., :h, :w] - t[..., :h, :w]).square().mean()
    assert torch.allclose(value(Pair("a", "a", L2()), s, t), expected)


def test_maps_of_another_stride_are_refused_unless_resizing_is_asked_for():
    s, t = torch.ones(1, 3, 4, 6), torch.ones(1, 3, 8, 12)
    with pytest.raises(ValueError, match="differ in stride"):
        value(Pair("a", "a", L2()), s, t)
    assert value(Pair("a", "a", L2(), align="resize"), s, t) == 0


def test_resizing_compares_the_part_of_the_input_that_both_maps_cover():
    """The student pads 48 pixels to 48, the teacher to 64; a ramp in pixels agrees where both have image."""
    ramp = lambda cells, stride: ((torch.arange(cells) + 0.5) * stride).expand(1, 1, cells, cells)  # noqa: E731
    s, t = ramp(6, 8), ramp(4, 16)
    aligned = align_maps(s, t, resize=True, strides=(8, 16))
    assert torch.allclose(aligned[0][..., 1:-1], aligned[1][..., 1:-1])
    assert not torch.allclose(*[x[..., 1:-1] for x in align_maps(s, t, resize=True)])
    pair = Pair("a", "a", L2(), align="resize", stride=8, teacher_stride=16)
    assert value(pair, s, t) == (aligned[0] - aligned[1]).square().mean()


def test_strides_and_channels_are_checked_before_anything_runs():
    pair = Pair("a", "b", L2())
    with pytest.raises(ValueError, match="stride 8.*stride 16"):
        pair.check([FeatureSpec(3, 8)], [FeatureSpec(3, 16)])
    with pytest.raises(ValueError, match=r"Conv1x1\(3, 5\)"):
        pair.check([FeatureSpec(3, 8)], [FeatureSpec(5, 8)])
    Pair("a", "b", L2(), student_adapter=Conv1x1(3, 5)).check([FeatureSpec(3, 8)], [FeatureSpec(5, 8)])
    Pair("a", "b", L2(), align="resize").check([FeatureSpec(3, 8)], [FeatureSpec(3, 16)])
    pair.check([FeatureSpec()], [FeatureSpec(5, 8)])


def test_a_cell_is_valid_if_its_top_left_pixel_is_in_the_image():
    feature = torch.zeros(2, 1, 3, 4)
    mask = valid_cells(feature, 8, [(24, 32), (16, 17)])
    assert mask[0].all()
    assert mask[1, 0].tolist() == [[True, True, True, False], [True, True, True, False], [False] * 4]
    assert valid_cells(feature, 8, [(24, 32), (24, 32)]) is None
    assert valid_cells(feature, None, [(1, 1), (1, 1)]) is None
    assert image_sizes([{"image": torch.zeros(3, 5, 6)}]) == [(5, 6)]
    assert image_sizes(torch.zeros(2, 3)) is None


@pytest.mark.parametrize("loss", [FactorTransfer(), L2()])
def test_what_lies_in_the_padding_does_not_change_the_loss(loss):
    s, t = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    pair, sizes = Pair("a", "a", loss, stride=8), [(32, 40), (16, 24)]
    before = value(pair, s, t, image_sizes=sizes)
    s[1, :, 2:], t[1, :, :, 3:] = 1e4, -1e4
    assert torch.equal(value(pair, s, t, image_sizes=sizes), before)
    alone = loss(s[1:, :, :2, :3], t[1:, :, :2, :3])
    assert torch.allclose(before, (loss(s[:1], t[:1]) + alone) / 2)


def test_a_half_precision_teacher_meets_frozen_adapters_in_float32():
    adapter = Conv1x1(3, 2).requires_grad_(False)
    pair = Pair("a", "a", L2(), teacher_adapter=adapter)
    assert value(pair, torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4).bfloat16()).isfinite()


def test_the_teacher_side_gets_no_gradient():
    t = torch.randn(2, 3, requires_grad=True)
    s = torch.randn(2, 3, requires_grad=True)
    value(Pair("a", "a", L2(), teacher_adapter=nn.Identity()), s, t).backward()
    assert t.grad is None and s.grad.any()


@pytest.mark.parametrize("name", ["a.b", "items", "1st"])
def test_a_name_that_cannot_be_used_is_an_error(name):
    with pytest.raises(ValueError, match="cannot name a pair"):
        Pairs(**{name: Pair("a", "a", L2())})


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), {"": -1.0}])
def test_a_weight_that_makes_no_sense_is_an_error(weight):
    with pytest.raises(ValueError, match="^weight .*needs finite numbers of at least 0"):
        Pair("a", "a", L2(), weight=weight)


@pytest.mark.parametrize("schedule", [{"start": -1}, {"start": 4, "stop": 4}, {"warmup": -2}])
def test_a_schedule_that_makes_no_sense_is_an_error(schedule):
    with pytest.raises(ValueError, match="schedule"):
        Pair("a", "a", L2(), **schedule)


class Told(nn.Module):
    """A loss that keeps what it was given."""

    def __init__(self, *needs):
        super().__init__()
        self.needs = needs

    def forward(self, student, teacher, valid=None, **known):
        self.student, self.teacher, self.valid, self.known = student, teacher, valid, known
        return torch.zeros(())


def samples(sizes, boxes):
    fields = [SimpleNamespace(gt_boxes=SimpleNamespace(tensor=torch.tensor(b).view(-1, 4))) for b in boxes]
    return [
        {"image": torch.zeros(3, *s), "instances": f, "label": i}
        for i, (s, f) in enumerate(zip(sizes, fields, strict=True))
    ]


def test_a_loss_is_told_what_it_needs_and_nothing_else():
    data = samples([(16, 32), (16, 16)], [[8.0, 0.0, 24.0, 4.0], []])
    everything, nothing = Told("labels", "foreground", "boxes", "mirrored"), Told()
    pair = Pair("a", "a", {"all": everything, "none": nothing}, stride=8, classes=1)
    maps = torch.zeros(2, 3, 2, 4)
    step = Step([(16, 32), (16, 16)], batch=data, mirrored={"a": maps})
    pair({"a": maps}, {"a": maps}, step)
    assert nothing.known == {} and set(everything.known) == set(everything.needs)
    assert everything.known["labels"].tolist() == [0, 1]
    assert everything.known["foreground"].tolist() == [True, False]
    assert [b.tolist() for b in everything.known["boxes"]] == [[[1.0, 0.0, 3.0, 0.5]], []]
    assert everything.known["mirrored"][0] is maps
    assert everything.valid.sum() == 12


def test_several_addresses_come_as_lists_with_a_mask_each():
    loss = Told()
    pair = Pair(["a", "b"], ["c", "d"], loss, stride=[8, 16])
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2)
    pair({"a": a, "b": b}, {"c": a, "d": b}, Step([(16, 32)]))
    assert [m.shape for m in loss.student] == [a.shape, b.shape] == [m.shape for m in loss.teacher]
    assert [v.sum().item() for v in loss.valid] == [8, 2]


def test_an_adapter_may_take_all_features_of_a_side():
    class Sum(nn.Module):
        takes_all = True

        def forward(self, features):
            return [sum(features)] * len(features)

    loss = Told()
    pair = Pair(["a", "b"], ["a", "b"], loss, student_adapter=Sum())
    values = {"a": torch.ones(2, 3), "b": torch.full((2, 3), 2.0)}
    pair(values, values)
    assert loss.student[1].unique() == 3 and loss.teacher[1].unique() == 2


def test_cells_outside_the_boxes_are_left_out():
    loss = Told()
    pair = Pair("a", "a", loss, stride=8, select=Selection("foreground", strides=[8]))
    maps = torch.zeros(1, 3, 3, 4)
    pair({"a": maps}, {"a": maps}, Step([(16, 32)], batch=samples([(16, 32)], [[9.0, 9.0, 17.0, 23.0]])))
    assert loss.valid[0, 0].int().tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def test_boxes_on_a_second_map_are_scaled_by_the_strides_however_the_maps_are_rounded():
    loss = Told("boxes")
    select = Selection("foreground", strides=[8, 16])
    pair = Pair(["a", "b"], ["a", "b"], loss, stride=[8, 16], select=select)
    values = {"a": torch.zeros(1, 1, 25, 25), "b": torch.zeros(1, 1, 13, 13)}
    pair(values, values, Step([(200, 200)], batch=samples([(200, 200)], [[80.0, 80.0, 96.0, 96.0]])))
    assert [mask[0, 0].any(0).nonzero()[:, 0].tolist() for mask in loss.valid] == [[10, 11], [5]]


def test_several_teachers_need_an_ensemble_which_comes_before_their_adapter():
    class Mean(nn.Module):
        def forward(self, features):
            return torch.stack(features).mean(0)

    with pytest.raises(ValueError, match="one, two, need an ensemble"):
        Pair("a", "a", L2(), teacher_name=["one", "two"])
    loss = Told()
    pair = Pair("a", "a", loss, teacher_name=["one", "two"], ensemble=Mean(), teacher_adapter=nn.ReLU())
    pair({"a": torch.zeros(1, 2)}, [{"a": torch.tensor([[1.0, -5.0]])}, {"a": torch.tensor([[3.0, 1.0]])}])
    assert loss.teacher.tolist() == [[2.0, 0.0]]


def test_what_a_pair_needs_must_be_known_when_it_is_built():
    with pytest.raises(ValueError, match="need its stride"):
        Pair("a", "a", Told("boxes"))
    with pytest.raises(ValueError, match="class count is not known"):
        Pair("a", "a", Told("foreground"))
    with pytest.raises(ValueError, match="2 addresses and 1 strides"):
        Pair(["a", "b"], ["a", "b"], L2(), stride=[8])
    with pytest.raises(ValueError, match="SELECT 'foreground': a loss of input gradients"):
        Pair(
            ["a", "b@input"], ["a", "b@input"], GradientAttention(), select=Selection("foreground"), classes=2
        )
    with pytest.raises(ValueError, match="'foreground' or"):
        Selection("some")


def test_an_address_that_gives_no_tensor_is_told_with_its_parts():
    rows = torch.zeros(2, 3)
    for value, words in [
        ((rows, rows), "a tuple, not a tensor: .*'a:0', 'a:1'"),
        ({"p3": rows}, "'a:p3'"),
        (None, "NoneType"),
    ]:
        with pytest.raises(ValueError, match=words):
            Pair("a", "a", L2())({"a": value}, {"a": rows})
        with pytest.raises(ValueError, match=words):
            Pair("a", "a", L2())({"a": rows}, {"a": value})


def test_missing_ground_truth_is_an_error_that_names_it():
    pair, rows = Pair("a", "a", Told("labels")), {"a": torch.zeros(2, 3)}
    with pytest.raises(ValueError, match=r"class of each row.*labels='roi_heads:0'.*C4 heads"):
        pair(rows, rows, Step(batch=[{"image": None}, {"image": None}]))
    maps = {"a": torch.zeros(1, 3, 2, 2)}
    with pytest.raises(ValueError, match="ground-truth boxes"):
        Pair("a", "a", Told("boxes"), stride=8)(maps, maps, Step(batch=[{"image": None}]))
