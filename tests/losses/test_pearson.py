"""`Pearson`: numbers of the authors' code, the correlation coefficient, affine invariance, padding."""

from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.losses import Pearson

# Recorded from open-mmlab/mmrazor, mmrazor/models/losses/pkd_loss.py PKDLoss; see `pkd/meta`.
RECORDED = np.load(Path(__file__).parent / "reference" / "pearson.npz")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def correlations(student, teacher):
    """r of each channel over all images and cells, by numpy."""
    pairs = zip(*(x.movedim(1, 0).flatten(1).double().numpy() for x in (student, teacher)), strict=True)
    return [float(np.corrcoef(s, t)[0, 1]) for s, t in pairs]


def test_value_and_gradient_are_those_of_the_authors_code():
    student = torch.from_numpy(RECORDED["pkd/student"]).requires_grad_()
    value = Pearson()(student, torch.from_numpy(RECORDED["pkd/teacher"]))
    value.backward()
    assert value.item() == pytest.approx(float(RECORDED["pkd/value"]), rel=1e-5)
    expected = torch.from_numpy(RECORDED["pkd/grad_student"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_four_numbers_by_hand():
    # Deviations (-3, -1, 1, 3) and (-1, -3, 3, 1): both have the sum of squares 20, their product is 12, r = 0.6.
    student, teacher = torch.tensor([[0.0], [2.0], [4.0], [6.0]]), torch.tensor([[2.0], [0.0], [6.0], [4.0]])
    assert Pearson()(student, teacher).item() == pytest.approx(3 / 4 * (1 - 0.6), rel=1e-5)


@pytest.mark.parametrize("shape", [(50, 3), (2, 3, 4, 5)])
def test_it_is_one_minus_the_correlation_of_each_channel_times_n_minus_one_over_n(shape):
    student, teacher = torch.randn(shape), torch.randn(shape)
    n = student.numel() // 3
    distances = [1 - r for r in correlations(student, teacher)]
    expected = (n - 1) / n * sum(distances) / 3
    assert Pearson()(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_a_channel_of_either_side_may_be_stretched_and_shifted():
    loss, student, teacher = Pearson(), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    expected = loss(student, teacher).item()
    factor, shift = (
        torch.tensor([0.1, 1.0, 30.0]).view(1, 3, 1, 1),
        torch.tensor([5.0, -2.0, 0.3]).view(1, 3, 1, 1),
    )
    assert loss(factor * student + shift, teacher).item() == pytest.approx(expected, rel=1e-4)
    assert loss(student, factor * teacher + shift).item() == pytest.approx(expected, rel=1e-4)
    assert loss(student, factor * student + shift).item() == pytest.approx(0, abs=1e-6)


def test_opposite_features_cost_two_and_unrelated_ones_one():
    feature, n = torch.randn(4, 3, 20, 20), 1600
    assert Pearson()(feature, -feature).item() == pytest.approx(2 * (n - 1) / n, rel=1e-5)
    assert Pearson()(feature, torch.randn(4, 3, 20, 20)).item() == pytest.approx(1, abs=0.06)


def test_a_dead_channel_costs_a_half_and_two_dead_ones_nothing():
    student, teacher = torch.randn(8, 2), torch.randn(8, 2)
    student[:, 1] = teacher[:, 1] = 0
    alive = Pearson()(student[:, :1], teacher[:, :1]).item()
    assert Pearson()(student, teacher).item() == pytest.approx(alive / 2, rel=1e-5)
    student[:, 0] = 3
    assert Pearson()(student, teacher).item() == pytest.approx(7 / 8 / 2 / 2, rel=1e-5)


def test_the_gradient_of_a_dead_channel_is_bounded_by_the_guard():
    student, teacher = torch.zeros(100, 1, requires_grad=True), torch.randn(100, 1)
    Pearson()(student, teacher).backward()
    assert student.grad.isfinite().all() and student.grad.abs().max() < 1e6


def test_the_statistics_are_those_of_the_batch():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    one_by_one = sum(Pearson()(student[i : i + 1], teacher[i : i + 1]).item() for i in range(2)) / 2
    brighter = torch.tensor([0.0, 10.0]).view(2, 1, 1, 1)  # the second image, on both sides
    assert Pearson()(student + brighter, teacher + brighter).item() < 0.1 * one_by_one


@pytest.mark.parametrize("fill", [3.0, float("inf"), float("nan")])
def test_with_a_mask_only_valid_cells_enter_statistics_and_mean(fill):
    valid = torch.zeros(3, 1, 4, 5, dtype=torch.bool)
    valid[0], valid[1, :, :2, :3], valid[2, :, :1, :1] = True, True, True
    student, teacher = torch.randn(3, 6, 4, 5), torch.randn(3, 6, 4, 5)
    rows = [x.movedim(1, -1)[valid[:, 0]] for x in (student, teacher)]  # 20 + 6 + 1 cells
    expected = Pearson()(*rows).item()
    student = student.masked_fill(~valid, fill).requires_grad_()
    value = Pearson()(student, teacher.masked_fill(~valid, -fill), valid)
    value.backward()
    assert len(rows[0]) == 27 and value.item() == pytest.approx(expected, rel=1e-6)
    assert student.grad.isfinite().all()
    assert student.grad[valid.expand_as(student)].any() and not student.grad[~valid.expand_as(student)].any()
