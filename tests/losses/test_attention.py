"""`attention_map`, `AttentionTransfer`: numbers of the authors' code, values by hand, the scale law."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.losses import AttentionTransfer, attention_map

# Recorded from szagoruyko/attention-transfer (at_code_p2) and AberHu/Knowledge-Distillation-Zoo; see `*/meta`.
RECORDED = np.load(Path(__file__).parent / "reference" / "attention.npz")
MAPS = [("sum", 1.0), *[(m, p) for m in ("sum_p", "max_p") for p in (0.5, 1, 1.5, 2, 3)]]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def map_by_loops(x, name, p):
    """One image (C, H, W) to the list of its H * W activities, in plain Python numbers."""
    cells = x.flatten(1).T.tolist()
    if name == "max_p":
        return [max(abs(a) ** p for a in cell) for cell in cells]
    return [sum(abs(a) ** (1 if name == "sum" else p) for a in cell) for cell in cells]


def squared_distances(student, teacher, name, p):
    """||d||^2 of each sample, in plain Python numbers."""
    found = []
    for s, t in zip(student, teacher, strict=True):
        s, t = map_by_loops(s, name, p), map_by_loops(t, name, p)
        s_norm, t_norm = math.sqrt(sum(q * q for q in s)), math.sqrt(sum(q * q for q in t))
        found.append(sum((a / s_norm - b / t_norm) ** 2 for a, b in zip(s, t, strict=True)))
    return found


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("at_code_p2", {}),
        ("at_sum_abs_p1", {"p": 1}),
        ("at_sum_abs_p1", {"map": "sum", "p": 7}),
        ("at_sum_abs_p2", {"p": 2}),
        ("at_sum_abs_p4", {"p": 4}),
    ],
)
def test_value_and_gradient_are_those_of_public_code(case, options):
    student = torch.from_numpy(RECORDED[f"{case}/student"]).requires_grad_()
    value = AttentionTransfer(**options)(student, torch.from_numpy(RECORDED[f"{case}/teacher"]))
    value.backward()
    assert value.item() == pytest.approx(float(RECORDED[f"{case}/value"]), rel=1e-5)
    expected = torch.from_numpy(RECORDED[f"{case}/grad_student"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_the_three_maps_by_hand():
    x = torch.tensor([[-3.0, 0.0], [1.0, -2.0]]).view(1, 2, 1, 2)  # two channels of two cells
    assert attention_map(x, "sum").flatten().tolist() == [4, 2]
    assert attention_map(x, "sum_p", 2).flatten().tolist() == [10, 4]
    assert attention_map(x, "max_p", 3).flatten().tolist() == [27, 8]
    assert attention_map(x, "sum_p", 0.5).flatten().tolist() == pytest.approx([1 + 3**0.5, 2**0.5])


def test_two_maps_by_hand():
    # A_s = (-3, 4) gives (9, 16), of norm sqrt(337); A_t = (1, 0) gives (1, 0). cos = 9 / sqrt(337).
    student, teacher = torch.tensor([-3.0, 4.0]).view(1, 1, 1, 2), torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    squared = 2 - 2 * 9 / math.sqrt(337)
    for outer, expected in {"mse": squared / 2, "l2": squared**0.5, "scaled": squared / 64}.items():
        assert AttentionTransfer(outer=outer)(student, teacher).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "p"), MAPS)
def test_every_map_and_outer_distance_agrees_with_a_slow_loop(name, p):
    student, teacher = torch.randn(3, 2, 4, 5), torch.randn(3, 6, 4, 5)
    squared = squared_distances(student, teacher, name, p)
    expected = {
        "mse": sum(squared) / (3 * 20),
        "l2": sum(s**0.5 for s in squared) / 3,
        "scaled": sum(squared) / (3 * 64),
    }
    for outer, value in expected.items():
        found = AttentionTransfer(name, p, outer)(student, teacher).item()
        assert found == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(("name", "p"), MAPS)
@pytest.mark.parametrize("outer", ["mse", "l2", "scaled"])
def test_the_gradient_of_every_map_agrees_with_finite_differences(name, p, outer):
    student = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 5, 2, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: AttentionTransfer(name, p, outer)(s, teacher), student)


@pytest.mark.parametrize(("name", "p"), MAPS)
def test_activations_that_are_zero_have_a_finite_gradient(name, p):
    x = torch.randn(2, 3, 4, 4).relu().requires_grad_()
    assert (x == 0).any()
    attention_map(x, name, p).sum().backward()
    assert x.grad.isfinite().all() and not x.grad[x == 0].any() and x.grad[x > 0].any()


@pytest.mark.parametrize(("name", "p"), MAPS)
def test_the_gradient_of_ever_smaller_features_stays_bounded(name, p):
    loss, shape = AttentionTransfer(name, p, "scaled"), torch.randn(2, 3, 4, 4)
    teacher, largest = torch.randn(2, 3, 4, 4), []
    for exponent in range(6, 14):
        student = (shape * 10.0**-exponent).requires_grad_()
        loss(student, teacher).backward()
        largest.append(student.grad.abs().max().item())
    assert max(largest) < (1e5 if p >= 1 else 1e9)  # a root is steeper, down to where it counts as zero
    assert largest[-1] <= 1.01 * largest[-3]


def test_scale_and_sign_of_either_side_change_nothing():
    loss, student, teacher = AttentionTransfer(), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    expected = loss(student, teacher).item()
    scales = torch.tensor([250.0, -0.01]).view(2, 1, 1, 1)
    assert loss(student * scales, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert loss(student, teacher * scales).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-4, 1e9])
def test_a_high_power_of_small_and_of_large_features_stays_within_float32(scale):
    loss, student, teacher = AttentionTransfer(p=4), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    expected = loss(student, teacher).item()
    assert loss(student * scale, teacher * scale).item() == pytest.approx(expected, rel=1e-4)


def test_the_order_and_the_number_of_channels_do_not_count():
    loss, student, teacher = AttentionTransfer(), torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    expected = loss(student, teacher).item()
    assert loss(student[:, [2, 0, 1]], teacher.repeat(1, 2, 1, 1)).item() == pytest.approx(expected, rel=1e-5)


def test_the_distance_of_unit_maps_lies_between_zero_and_the_square_root_of_two():
    here, there = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    here[..., 0, 0], there[..., 3, 3] = -1.0, 5.0
    assert AttentionTransfer(outer="l2")(here, there).item() == pytest.approx(math.sqrt(2))
    assert AttentionTransfer(outer="l2")(here, -here).item() == 0


def test_the_mean_falls_with_the_number_of_cells_and_the_other_two_do_not():
    value = {}
    for size in ((8, 8), (100, 152)):
        student, teacher = torch.randn(4, 3, *size), torch.randn(4, 3, *size)
        for outer in ("mse", "l2", "scaled"):
            value[outer, size] = AttentionTransfer(outer=outer)(student, teacher).item()
    ratio = {outer: value[outer, (8, 8)] / value[outer, (100, 152)] for outer in ("mse", "l2", "scaled")}
    assert ratio["mse"] == pytest.approx(100 * 152 / 64, rel=0.1)
    assert ratio["scaled"] == pytest.approx(1, rel=0.1) and ratio["l2"] == pytest.approx(1, rel=0.05)
    assert value["scaled", (8, 8)] == pytest.approx(value["mse", (8, 8)], rel=1e-6)


def test_an_all_zero_sample_beside_others_costs_what_the_other_sides_map_is():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    student[1] = 0  # d is then the teacher's unit map, and ||d||^2 = 1
    student.requires_grad_()
    value = AttentionTransfer()(student, teacher)
    value.backward()
    first = AttentionTransfer()(student[:1], teacher[:1]).item()
    assert value.item() == pytest.approx((first + 1 / 16) / 2, rel=1e-5)
    assert student.grad.isfinite().all() and not student.grad[1].any()


@pytest.mark.parametrize(
    ("options", "word"),
    [({"map": "mean"}, "mean"), ({"p": 0}, "p = 0"), ({"p": -2}, "p = -2"), ({"outer": "l1"}, "l1")],
)
def test_arguments_that_make_no_sense_are_refused_when_built(options, word):
    with pytest.raises(ValueError, match=word):
        AttentionTransfer(**options)


def test_rows_have_no_attention_map():
    with pytest.raises(ValueError, match=r"\(5, 4\).*cells of two maps"):
        AttentionTransfer()(torch.zeros(5, 4), torch.zeros(5, 6))
    with pytest.raises(ValueError, match=r"\(5, 4\)"):
        attention_map(torch.zeros(5, 4))


def test_unequal_grids_and_batches_are_errors_although_channels_may_differ():
    with pytest.raises(ValueError, match="map sizes"):
        AttentionTransfer()(torch.zeros(2, 4, 3, 3), torch.zeros(2, 6, 3, 4))
    with pytest.raises(ValueError, match="counts"):
        AttentionTransfer()(torch.zeros(2, 4, 3, 3), torch.zeros(3, 6, 3, 3))


def test_the_hyper_parameters_are_shown():
    assert repr(AttentionTransfer("max_p", 1)) == "AttentionTransfer(map='max_p', p=1, outer='mse')"
