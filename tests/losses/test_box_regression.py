"""`BoxRegression`: values by hand, the columns of a class, which rows count."""

import pytest
import torch

from det_distill.losses import BoxRegression


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def every_row(student, teacher, loss=None, labels=None):
    """The value with every row a foreground row, of class 0 unless said."""
    labels = torch.zeros(len(student), dtype=torch.int64) if labels is None else labels
    foreground = torch.ones(len(student), dtype=torch.bool)
    return (loss or BoxRegression())(student, teacher, labels=labels, foreground=foreground)


def test_absolute_differences_are_summed_over_deltas_and_averaged_over_rows():
    student = torch.tensor([[1.0, 0.0, 0.0, -2.0], [0.5, 0.5, 0.5, 0.5]])
    teacher = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 1.0]])
    assert every_row(student, teacher).item() == ((1 + 3) + 0.5) / 2


def test_small_differences_are_squared_below_beta():
    # beta = 2: |d| = 1 gives 1 / (2 * 2), |d| = 3 gives 3 - 2 / 2.
    student, teacher = torch.tensor([[1.0, 0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    assert every_row(student, teacher, BoxRegression(2.0)).item() == 0.25 + 2.0


def test_only_the_four_columns_of_each_rows_class_count():
    student, teacher = torch.randn(5, 12), torch.randn(5, 12)
    labels = torch.tensor([0, 2, 1, 2, 0])
    slow = [
        sum(abs(student[r, 4 * y + i] - teacher[r, 4 * y + i]) for i in range(4))
        for r, y in enumerate(labels.tolist())
    ]
    torch.testing.assert_close(every_row(student, teacher, labels=labels), torch.stack(slow).mean())


def test_one_box_for_all_classes_compares_with_the_box_of_the_class_on_either_side():
    single, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 2, 0])
    per_class = torch.randn(5, 12)
    chosen = torch.stack([per_class[r, 4 * y : 4 * y + 4] for r, y in enumerate(labels.tolist())])
    expected = every_row(single, chosen)
    assert every_row(single, per_class, labels=labels).item() == expected.item()
    assert every_row(per_class, single, labels=labels).item() == expected.item()


def test_background_rows_neither_count_nor_get_a_gradient():
    student, teacher = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    labels, foreground = torch.tensor([1, 2, 0, 2]), torch.tensor([True, False, True, False])
    value = BoxRegression()(student, teacher, labels=labels, foreground=foreground)
    value.backward()
    expected = every_row(student[[0, 2]], teacher[[0, 2]], labels=torch.tensor([1, 0]))
    assert value.item() == expected.item()
    assert student.grad[[0, 2]].any(1).all() and not student.grad[[1, 3]].any()


def test_background_alone_gives_a_zero_that_is_attached_to_the_graph():
    student = torch.randn(3, 8, requires_grad=True)
    labels, foreground = torch.full((3,), 2), torch.zeros(3, dtype=torch.bool)
    value = BoxRegression()(student, torch.randn(3, 8), labels=labels, foreground=foreground)
    value.backward()
    assert value == 0 and not student.grad.any()


@pytest.mark.parametrize(("student", "teacher", "words"), [(6, 6, "6 columns"), (8, 12, "2 classes.*3")])
def test_widths_that_are_no_deltas_or_of_other_classes_are_errors(student, teacher, words):
    with pytest.raises(ValueError, match=words):
        every_row(torch.zeros(2, student), torch.zeros(2, teacher))


def test_maps_and_a_negative_beta_are_errors():
    with pytest.raises(ValueError, match="not maps"):
        every_row(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3))
    with pytest.raises(ValueError, match="beta"):
        BoxRegression(-1.0)
