"""`L2` and `LSH`: numbers of the authors' code, values by hand, the divergence and its guard."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.losses import L2, LSH, arithmetic, limit_norm

# Recorded from DoctorKey/LSHFM.detection, src/model/KD/LSH.py LSH; see `lsh/meta`, `lsh_l2/meta` in the file.
RECORDED = np.load(Path(__file__).parent / "reference" / "lsh.npz")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def recorded(key):
    return torch.from_numpy(np.asarray(RECORDED[key]))


@pytest.mark.parametrize("case", ["lsh", "lsh_l2"])
def test_value_and_gradient_are_those_of_the_authors_code(case):
    student, teacher = recorded(f"{case}/student").requires_grad_(), recorded(f"{case}/teacher")
    value = LSH(recorded(f"{case}/weight"), recorded(f"{case}/bias"))(student, teacher)
    if case == "lsh_l2":
        value = value + L2()(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(float(RECORDED[f"{case}/value"]), rel=1e-5)
    expected = recorded(f"{case}/grad_student")
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_l2_by_hand():
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [1.0, 0.0]])
    assert L2()(student, teacher).item() == (1 + 4 + 1 + 0) / 4


def test_l2_without_a_mask_is_the_mean_over_all_elements():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    expected = torch.nn.functional.mse_loss(student, teacher)
    torch.testing.assert_close(L2()(student, teacher), expected, rtol=1e-6, atol=0)


def test_lsh_by_hand():
    # W f + b: teacher (1, 2) -> (1 - 0, 2 - 2) = (1, 0), bits (1, 0) because the comparison is strict;
    # student (2, 3) -> (2, 1). BCE: log(1 + e^-2) for the set bit, log(1 + e^1) for the clear one.
    loss = LSH(torch.eye(2), torch.tensor([0.0, -2.0]))
    student, teacher = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 2.0]])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("distance", "expected"), [("l1", (1 + 3) / 2), ("l2", (1 + 9) / 2)])
def test_the_other_distances_compare_projections_and_ignore_the_bias(distance, expected):
    weight = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    student, teacher = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 2.0]])  # W (f_s - f_t) = (1, 3)
    for bias in (None, torch.tensor([5.0, -7.0])):
        assert LSH(weight, bias, distance=distance)(student, teacher).item() == pytest.approx(expected)


def test_every_cell_of_a_map_is_a_row():
    loss = LSH.random(6, 16, 0.5)
    student, teacher = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4)
    slow = [
        loss(student[b, :, y, x][None], teacher[b, :, y, x][None])
        for b in range(2)
        for y in range(3)
        for x in range(4)
    ]
    torch.testing.assert_close(loss(student, teacher), torch.stack(slow).mean())


@pytest.mark.parametrize("shape", [(11, 6), (2, 6, 3, 4)])
@pytest.mark.parametrize("ratio", [None, 0.5])
def test_many_rows_are_taken_in_parts_with_the_same_value_and_gradient(monkeypatch, shape, ratio):
    loss, teacher = LSH.random(6, 16, 0.5, max_norm_ratio=ratio), torch.randn(shape)
    whole = torch.randn(shape, requires_grad=True)
    parts = whole.detach().clone().requires_grad_()
    expected = loss(whole, teacher)
    expected.backward()
    monkeypatch.setattr(arithmetic, "VALUES_AT_ONCE", 4 * 16)  # four rows
    value = loss(parts, teacher)
    value.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_the_hash_functions_are_buffers_of_the_given_spread_and_take_no_gradient():
    weight = torch.randn(4, 3, requires_grad=True)
    loss = LSH(weight)
    loss(torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)).backward()
    assert weight.grad is None and not list(loss.parameters())
    assert set(loss.state_dict()) == {"weight", "bias", "calibrated"}
    drawn = LSH.random(64, 512, 0.3, generator=torch.Generator().manual_seed(1))
    assert drawn.weight.std().item() == pytest.approx(0.3, rel=0.02) and not drawn.bias.any()
    again = LSH.random(64, 512, 0.3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(drawn.weight, again.weight)


def scaled_students(loss, ratios):
    """BCE of a student near its teacher at several lengths; features are non-negative as after a ReLU."""
    generator = torch.Generator().manual_seed(3)
    teacher = torch.randn(128, 64, generator=generator).relu()
    student = 0.9 * teacher + 0.1 * torch.randn(128, 64, generator=generator).relu()
    return [loss(ratio * student, teacher).item() for ratio in ratios]


def test_without_bias_and_guard_a_longer_student_is_always_better():
    loss = LSH.random(64, 256, 0.1, generator=torch.Generator().manual_seed(5))
    values = scaled_students(loss, (0.5, 1, 2, 4, 8))
    assert values == sorted(values, reverse=True)
    assert values[3] < 0.6 * values[0]


def test_with_a_median_bias_the_loss_has_a_finite_optimum():
    loss = LSH.random(64, 256, 0.1, bias="median", generator=torch.Generator().manual_seed(5))
    loss.observe(torch.randn(2000, 64, generator=torch.Generator().manual_seed(4)).relu())
    loss.calibrate()
    values = scaled_students(loss, (0.5, 1, 2, 4, 8, 16))
    assert values[-1] > min(values) and values[0] > min(values)


def test_with_the_guard_a_student_longer_than_the_ratio_gains_nothing():
    loss = LSH.random(64, 256, 0.1, max_norm_ratio=2.0, generator=torch.Generator().manual_seed(5))
    within, at, beyond, far = scaled_students(loss, (0.5, 4, 8, 1000))
    assert at < within and beyond == pytest.approx(at, rel=1e-6) and far == pytest.approx(at, rel=1e-5)


def test_the_guard_shortens_long_rows_only_and_removes_their_radial_gradient():
    teacher = torch.tensor([[3.0, 4.0], [3.0, 4.0]])  # length 5; limit 10
    student = torch.tensor([[6.0, 0.0], [0.0, 40.0]], requires_grad=True)
    limited = limit_norm(student, teacher, 2.0)
    assert torch.equal(limited, torch.tensor([[6.0, 0.0], [0.0, 10.0]]))
    limited.sum().backward()
    # The short row keeps its gradient; of the long one the part across shrinks by 10 / 40, the rest is gone.
    assert torch.allclose(student.grad, torch.tensor([[1.0, 1.0], [0.25, 0.0]]))


def test_training_by_lsh_alone_stays_bounded_only_with_the_guard():
    teacher = torch.randn(16, 32).relu()
    growth = {}
    for ratio in (None, 2.0):
        loss = LSH.random(32, 128, 0.1, max_norm_ratio=ratio, generator=torch.Generator().manual_seed(2))
        student = teacher.clone().requires_grad_()
        optimizer = torch.optim.SGD([student], lr=2000.0)
        for _ in range(100):
            optimizer.zero_grad()
            loss(student, teacher).backward()
            optimizer.step()
        growth[ratio] = (student.detach().norm(dim=1) / teacher.norm(dim=1)).mean().item()
    assert growth[2.0] < 4 < 10 < growth[None]


def test_arguments_that_make_no_sense_are_refused_when_built():
    with pytest.raises(ValueError, match=r"\(N, D\) and a bias \(N,\), not \(3, 2\), \(2,\)"):
        LSH(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="cosine"):
        LSH(torch.zeros(3, 2), distance="cosine")
    with pytest.raises(ValueError, match="max_norm_ratio"):
        LSH(torch.zeros(3, 2), max_norm_ratio=0.0)
    with pytest.raises(ValueError, match="mode"):
        LSH.random(4, 8, 0.1, bias="mode")
    with pytest.raises(ValueError, match="above zero"):
        LSH.random(4, 8, 0.0)


def test_a_feature_of_another_width_than_the_hashes_is_an_error():
    with pytest.raises(ValueError, match=r"D = 6.*\(5, 4\).*Linear"):
        LSH.random(6, 8, 0.1)(torch.zeros(5, 4), torch.zeros(5, 4))
