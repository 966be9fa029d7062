"""`HierarchicalContext`: numbers of the authors' code, values by hand, pooling of cropped maps."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from det_distill.losses import L2, HierarchicalContext

# Recorded from dvlab-research/ReviewKD, Detection/model/kd_trans.py ReviewKD and hcl; see `review/meta`.
RECORDED = np.load(Path(__file__).parent / "reference" / "review.npz")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def recorded(key):
    return [torch.from_numpy(RECORDED[f"review/{key}{n}"]) for n in range(3)]


def in_the_authors_words(student, teacher):
    """One level by `adaptive_avg_pool2d` of each side."""
    value, total, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for size in (4, 2, 1):
        if size < student.shape[2]:
            weight /= 2
            pooled = (F.adaptive_avg_pool2d(x, size) for x in (student, teacher))
            value, total = value + weight * F.mse_loss(*pooled), total + weight
    return value / total


def test_the_value_is_that_of_the_authors_code():
    value = HierarchicalContext()(recorded("fused"), recorded("teacher"))
    assert value.item() == pytest.approx(float(RECORDED["review/value"]), rel=1e-5)


@pytest.mark.parametrize("size", [(9, 9), (5, 13), (13, 5), (4, 4), (3, 8), (8, 3), (2, 1), (1, 6)])
def test_any_shape_of_map_is_pooled_as_torch_does(size):
    student, teacher = torch.randn(2, 3, *size), torch.randn(2, 3, *size)
    expected = in_the_authors_words(student, teacher)
    torch.testing.assert_close(HierarchicalContext()(student, teacher), expected, rtol=1e-5, atol=0)


def test_two_by_two_by_hand():
    # d = 1, 2, 3, 6: mean square 50 / 4, squared mean 9. Only pooling to one cell is smaller than the map.
    student = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    value = HierarchicalContext()(student, torch.zeros_like(student))
    assert value.item() == pytest.approx((12.5 + 9 / 2) / 1.5)


def test_another_pyramid_by_hand():
    # d = 1, 3, 5, 7 down a column: mean square 21, halves 2 and 6 with mean square 20.
    student = torch.tensor([1.0, 3.0, 5.0, 7.0]).view(1, 1, 4, 1)
    value = HierarchicalContext(pyramid=[2])(student, torch.zeros_like(student))
    assert value.item() == pytest.approx((21 + 20 / 2) / 1.5)


def test_a_constant_difference_counts_alike_on_maps_of_every_size():
    for size in ((1, 1), (3, 5), (17, 9)):
        teacher = torch.randn(2, 3, *size)
        assert HierarchicalContext()(teacher + 3, teacher).item() == pytest.approx(9, rel=1e-5)


def test_a_difference_without_a_mean_counts_less_than_its_mean_square():
    student = torch.tensor([1.0, -1.0]).repeat(32).view(1, 1, 8, 8)
    value = HierarchicalContext()(student, torch.zeros_like(student))
    assert value.item() == pytest.approx(1 / 1.875)  # all poolings are zero


def test_levels_are_summed_and_one_level_may_come_alone():
    loss = HierarchicalContext()
    student, teacher = ([torch.randn(2, c, n, n) for c, n in ((3, 8), (5, 4), (2, 1))] for _ in range(2))
    each = [loss(s, t) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(loss(student, teacher), sum(each))
    assert loss(student[:1], teacher[:1]) == each[0]


def test_vectors_are_maps_of_one_cell():
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    value = HierarchicalContext()(student, teacher)
    torch.testing.assert_close(value, L2()(student, teacher))
    assert value == HierarchicalContext()(student[:, :, None, None], teacher[:, :, None, None])


def test_each_image_is_pooled_as_if_cropped_out_of_its_padding():
    student, teacher = torch.randn(4, 3, 9, 11), torch.randn(4, 3, 9, 11)
    sizes = [(9, 11), (5, 6), (4, 11), (2, 3)]  # each of them stops at another size of the pyramid
    valid = torch.zeros(4, 1, 9, 11, dtype=torch.bool)
    for mask, (h, w) in zip(valid, sizes, strict=True):
        mask[:, :h, :w] = True
    cropped = [
        in_the_authors_words(student[n : n + 1, :, :h, :w], teacher[n : n + 1, :, :h, :w])
        for n, (h, w) in enumerate(sizes)
    ]
    found = HierarchicalContext()(student, teacher, valid)
    torch.testing.assert_close(found, sum(cropped) / 4, rtol=1e-5, atol=0)


def test_levels_with_and_without_padding_go_together():
    loss = HierarchicalContext()
    student, teacher = ([torch.randn(2, 3, 6, 6), torch.randn(2, 3, 3, 3)] for _ in range(2))
    valid = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    valid[1, :, 4:] = False
    expected = loss(student[0], teacher[0], valid) + loss(student[1], teacher[1])
    assert loss(student, teacher, [valid, None]) == expected


def test_of_cells_selected_anywhere_only_they_and_the_rectangle_around_them_count():
    valid = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    valid[..., 2, 3] = valid[..., 4, 4] = True
    student = torch.zeros(1, 1, 6, 6).masked_fill(~valid, 7)
    student[..., 2, 3] = 3
    # Both cells: mean square 9 / 2. Rectangle of 3 rows and 2 columns around (2, 3): pooled to 2 x 2 the bins overlap
    # in the middle row, one is 3 / 2 and three are 0; pooled to one cell it is 3 / 6.
    expected = (9 / 2 + (9 / 4) / 4 / 2 + (1 / 4) / 4) / 1.75
    assert HierarchicalContext()(student, torch.zeros_like(student), valid).item() == pytest.approx(expected)


def test_unequal_numbers_of_levels_are_refused():
    level = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match="2 of the student's, 1 of the teacher's and 2 masks"):
        HierarchicalContext()([level, level], [level])
    with pytest.raises(ValueError, match="0 of the student's"):
        HierarchicalContext()([], [])


def test_pooling_to_nothing_is_refused():
    with pytest.raises(ValueError, match="sizes of at least 1"):
        HierarchicalContext(pyramid=(4, 0))
