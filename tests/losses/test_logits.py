"""`LogitRegression`: values by hand, its relation to the mean squared error, centring."""

import pytest
import torch

from det_distill.losses import L2, LogitRegression


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_two_rows_by_hand():
    # Differences (1, -2, 0) and (0, 0, 3): squares sum to 5 and 9; a half of each, and the mean over two rows.
    student = torch.tensor([[1.0, 0.0, 4.0], [2.0, 2.0, 3.0]])
    teacher = torch.tensor([[0.0, 2.0, 4.0], [2.0, 2.0, 0.0]])
    assert LogitRegression()(student, teacher).item() == (5 / 2 + 9 / 2) / 2


def test_centring_takes_each_rows_mean_difference_out_by_hand():
    # Difference (1, -2, 4) has the mean 1: (0, -3, 3) is left, and half of its squares is 9.
    student, teacher = torch.tensor([[1.0, 0.0, 4.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    assert LogitRegression(centre=True)(student, teacher).item() == 9.0


@pytest.mark.parametrize("shape", [(5, 7), (2, 7, 3, 4)])
def test_the_value_is_half_the_classes_times_the_mean_over_all_elements(shape):
    student, teacher = torch.randn(shape), torch.randn(shape)
    torch.testing.assert_close(LogitRegression()(student, teacher), 7 / 2 * L2()(student, teacher))


def test_the_gradient_is_the_difference_over_the_rows():
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7)
    LogitRegression()(student, teacher).backward()
    torch.testing.assert_close(student.grad, (student.detach() - teacher) / 5)


def test_a_constant_on_a_rows_logits_counts_unless_they_are_centred():
    student, constant = torch.randn(5, 7), torch.randn(5, 1)
    assert LogitRegression()(student + constant, student).item() == pytest.approx(
        (7 * constant.square() / 2).mean().item(), rel=1e-5
    )
    assert LogitRegression(centre=True)(student + constant, student).item() == pytest.approx(0, abs=1e-9)
