"""`FSP`: numbers of public code, values by hand, a slow loop, padding, and what every loss must stand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from det_distill.losses import FSP

# Recorded from AberHu/Knowledge-Distillation-Zoo, kd_losses/fsp.py fsp_matrix; see `fsp_matrix/meta` in the file.
RECORDED = np.load(Path(__file__).parent / "reference" / "fsp.npz")
SIZES = {"equal": ((4, 3), (4, 3)), "pooled": ((6, 8), (3, 4)), "odd": ((7, 5), (4, 3))}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=["sum", "mean"])
def loss(request):
    return FSP(request.param)


@pytest.fixture(params=SIZES.values(), ids=SIZES.keys())
def sizes(request):
    return request.param


def maps(sizes=SIZES["pooled"], batch=2, channels=(3, 5), **options):
    return [torch.randn(batch, c, *size, **options) for c, size in zip(channels, sizes, strict=True)]


def value_and_grads(loss, student, teacher, *args):
    student = [s.detach().clone().requires_grad_() for s in student]
    value = loss(student, teacher, *args)
    return value.detach(), torch.autograd.grad(value, student)


def slow_matrix(first, second):
    """G of maps of one size, element by element."""
    images, m, height, width = first.shape
    matrix = torch.zeros(images, m, second.shape[1])
    for b, i, j in np.ndindex(*matrix.shape):
        for u, v in np.ndindex(height, width):
            matrix[b, i, j] += first[b, i, u, v] * second[b, j, u, v] / (height * width)
    return matrix


def test_the_matrix_is_that_of_public_code():
    first, second, expected = (
        torch.from_numpy(RECORDED[f"fsp_matrix/{k}"]) for k in ("first", "second", "value")
    )
    torch.testing.assert_close(
        FSP.matrix(first, second), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item()
    )


def test_the_matrix_by_hand():
    first = torch.tensor([[[[1.0, 2.0]], [[0.0, -1.0]]]])  # two channels of 1 x 2 cells
    second = torch.tensor([[[[3.0, 4.0]]]])
    assert torch.allclose(FSP.matrix(first, second), torch.tensor([[[(3 + 8) / 2], [-4 / 2]]]))


def test_the_value_by_hand():
    # One cell, so G = F1 F2^T: student (1, 2)^T (3) = (3, 6)^T, teacher (1, 1)^T (2) = (2, 2)^T; squares 1 and 16.
    student = [torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), torch.tensor(3.0).view(1, 1, 1, 1)]
    teacher = [torch.tensor([1.0, 1.0]).view(1, 2, 1, 1), torch.tensor(2.0).view(1, 1, 1, 1)]
    assert FSP()(student, teacher).item() == pytest.approx(17)
    assert FSP("mean")(student, teacher).item() == pytest.approx(17 / 2)


def test_the_value_is_the_squared_frobenius_norm_averaged_over_the_images():
    student, teacher = maps(SIZES["equal"]), maps(SIZES["equal"])
    difference = slow_matrix(*student) - slow_matrix(*teacher)
    expected = sum(d.norm().item() ** 2 for d in difference) / 2
    assert FSP()(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert FSP("mean")(student, teacher).item() == pytest.approx(expected / (3 * 5), rel=1e-5)


@pytest.mark.parametrize("larger", [0, 1])
def test_the_larger_map_is_max_pooled_to_the_smaller(larger):
    big, small = torch.randn(2, 3, 6, 8), torch.randn(2, 3, 3, 4)
    pooled = F.max_pool2d(big, 2)
    pairs = [(big, small), (pooled, small)]
    got, expected = (FSP.matrix(*(pair if larger == 0 else pair[::-1])) for pair in pairs)
    torch.testing.assert_close(got, expected)


def test_each_axis_is_pooled_by_itself():
    tall, wide = torch.randn(1, 2, 6, 2), torch.randn(1, 2, 3, 4)
    expected = FSP.matrix(F.max_pool2d(tall, (2, 1)), F.max_pool2d(wide, (1, 2)))
    torch.testing.assert_close(FSP.matrix(tall, wide), expected)


def test_the_bins_of_an_odd_size_cover_the_whole_map():
    big, ones = torch.zeros(1, 1, 7, 5), torch.ones(1, 1, 4, 3)
    for row, column in np.ndindex(7, 5):
        big.zero_()[0, 0, row, column] = 12.0
        assert FSP.matrix(big, ones).item() >= 1 - 1e-6  # one of 12 cells at least sees it


def test_the_value_scales_with_the_fourth_power_of_the_maps(loss):
    student, teacher = maps(), maps()
    scaled = loss([3 * s for s in student], [3 * t for t in teacher])
    assert scaled.item() == pytest.approx(81 * loss(student, teacher).item(), rel=1e-5)


def test_swapping_the_two_maps_transposes_the_matrix_and_keeps_the_value(loss, sizes):
    student, teacher = maps(sizes), maps(sizes)
    torch.testing.assert_close(FSP.matrix(*student), FSP.matrix(*student[::-1]).mT)
    torch.testing.assert_close(loss(student, teacher), loss(student[::-1], teacher[::-1]))


def test_where_in_the_image_something_happens_does_not_matter():
    student, teacher = maps(SIZES["equal"]), maps(SIZES["equal"])
    moved = [s.roll((1, 2), (2, 3)) for s in student]
    torch.testing.assert_close(FSP()(moved, teacher), FSP()(student, teacher))


def test_equal_maps_give_zero_and_zero_gradient(loss, sizes):
    student = maps(sizes)
    value, grads = value_and_grads(loss, student, [s.clone() for s in student])
    assert value == 0 and not any(g.any() for g in grads)


def test_only_the_student_gets_a_gradient(loss, sizes):
    student, teacher = maps(sizes, requires_grad=True), maps(sizes, requires_grad=True)
    value = loss(student, teacher)
    value.backward()
    assert value.shape == () and value > 0 and not list(loss.parameters())
    assert all(s.grad.abs().sum() > 0 for s in student) and all(t.grad is None for t in teacher)


def test_gradcheck_in_float64(loss, sizes):
    student, teacher = maps(sizes, dtype=torch.float64), maps(sizes, dtype=torch.float64)
    first, second = (s.requires_grad_() for s in student)
    assert torch.autograd.gradcheck(lambda a, b: loss([a, b], teacher), (first, second))


@pytest.mark.parametrize(
    ("batch", "sizes"), [(0, ((4, 4), (2, 2))), (2, ((4, 0), (2, 2))), (2, ((4, 4), (0, 2)))]
)
def test_no_images_and_no_cells_give_a_zero_that_is_attached_to_both_maps(loss, batch, sizes):
    student = maps(sizes, batch, requires_grad=True)
    value = loss(student, maps(sizes, batch))
    value.backward()
    assert value == 0 and all(s.grad.shape == s.shape for s in student)


@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
def test_all_zero_maps_give_finite_values_and_gradients(loss, sizes, zero):
    student, teacher = maps(sizes), maps(sizes)
    student = [s * 0 for s in student] if zero != "teacher" else student
    teacher = [t * 0 for t in teacher] if zero != "student" else teacher
    value, grads = value_and_grads(loss, student, teacher)
    assert value.isfinite() and all(g.isfinite().all() for g in grads)


def test_a_single_element_gives_the_square_of_the_difference_of_products(loss):
    student, teacher = ([torch.full((1, 1, 1, 1), x) for x in pair] for pair in ((2.0, 5.0), (3.0, 4.0)))
    value, grads = value_and_grads(loss, student, teacher)
    assert value == (2 * 5 - 3 * 4) ** 2
    assert [g.item() for g in grads] == [2 * -2 * 5, 2 * -2 * 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_computed_in_float32(loss, sizes, dtype):
    student, teacher = ([f.to(dtype) for f in maps(sizes)] for _ in range(2))
    value, grads = value_and_grads(loss, student, teacher)
    expected, expected_grads = value_and_grads(
        loss, [s.float() for s in student], [t.float() for t in teacher]
    )
    assert value.dtype == torch.float32 and FSP.matrix(*student).dtype == torch.float32
    torch.testing.assert_close(value, expected)
    for grad, its in zip(grads, expected_grads, strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad, its.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(loss, sizes, dtype):
    student, teacher = maps(sizes), maps(sizes)
    expected = loss(student, teacher), FSP.matrix(*student)
    with torch.autocast("cpu", dtype=dtype):
        got = loss(student, teacher), FSP.matrix(*student)
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("magnitude", [8.0, 100.0])
def test_float16_maps_of_56_by_56_cells_do_not_overflow(loss, magnitude):
    """Their inner product in float16 would: 56 * 56 * 8 * 8 is 200704, the largest number 65504."""
    student = [torch.full((1, 2, 56, 56), magnitude).half() for _ in range(2)]
    teacher = [torch.zeros_like(s) for s in student]
    cells = 4 if loss.reduction == "sum" else 1
    assert loss(student, teacher).item() == pytest.approx(cells * magnitude**4, rel=1e-5)


def padded(sizes, height, width, channels, fill):
    """Maps with `fill` outside each image's size, and the mask."""
    batch = torch.full((len(sizes), channels, height, width), fill)
    valid = torch.zeros(len(sizes), 1, height, width, dtype=torch.bool)
    for image, mask, (h, w) in zip(batch, valid, sizes, strict=True):
        image[:, :h, :w] = torch.randn(channels, h, w)
        mask[:, :h, :w] = True
    return batch, valid


@pytest.mark.parametrize("fill", [30.0, float("inf"), float("nan")])
def test_padding_counts_as_if_each_image_had_been_cropped_and_averaged(loss, fill):
    large, small = [(8, 6), (4, 2), (2, 2)], [(4, 3), (2, 1), (1, 1)]
    first, valid = padded(large, 8, 6, 3, fill)
    second, its_valid = padded(small, 4, 3, 5, fill)
    teacher = [padded(large, 8, 6, 3, -fill)[0], padded(small, 4, 3, 5, -fill)[0]]
    value, grads = value_and_grads(loss, [first, second], teacher, [valid, its_valid])
    total, expected = 0.0, [torch.zeros_like(first), torch.zeros_like(second)]
    for i, sizes in enumerate(zip(large, small, strict=True)):
        crop = [
            [f[i : i + 1, :, :h, :w] for f, (h, w) in zip(s, sizes, strict=True)]
            for s in ([first, second], teacher)
        ]
        one, one_grads = value_and_grads(loss, *crop)
        total += one.item() / 3
        for whole, part, (h, w) in zip(expected, one_grads, sizes, strict=True):
            whole[i, :, :h, :w] = part[0] / 3
    assert value.item() == pytest.approx(total, rel=1e-5)
    for grad, its in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, its, rtol=1e-4, atol=1e-7)


def test_negative_features_lose_no_maximum_to_the_padding():
    big = torch.full((1, 1, 2, 4), -3.0)
    valid = torch.tensor([[True, True, True, False]] * 2).view(1, 1, 2, 4)
    big[~valid] = 5.0
    ones, small_valid = torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2, dtype=torch.bool)
    assert FSP.matrix(big, ones, [valid, small_valid]).item() == pytest.approx(-3.0)


@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True)])
def test_a_mask_that_is_true_everywhere_equals_no_mask(loss, sizes, which):
    student, teacher = maps(sizes), maps(sizes)
    masks = [
        torch.ones_like(s[:, :1], dtype=torch.bool) if w else None
        for s, w in zip(student, which, strict=True)
    ]
    torch.testing.assert_close(loss(student, teacher, masks), loss(student, teacher), rtol=1e-5, atol=0)


def test_cells_count_that_are_valid_in_both_maps():
    first, second = maps(SIZES["equal"], 1)
    masks = [torch.ones(1, 1, 4, 3, dtype=torch.bool) for _ in range(2)]
    masks[0][..., 2:, :], masks[1][..., 1:] = False, False
    expected = FSP.matrix(first[..., :2, :1], second[..., :2, :1])
    torch.testing.assert_close(FSP.matrix(first, second, masks), expected)


def test_an_image_without_a_valid_cell_counts_as_zero(loss):
    student, teacher = maps(), maps()
    masks = [torch.ones_like(s[:, :1], dtype=torch.bool) for s in student]
    for mask in masks:
        mask[1] = False
    value, grads = value_and_grads(loss, student, teacher, masks)
    torch.testing.assert_close(value, loss([s[:1] for s in student], [t[:1] for t in teacher]) / 2)
    assert all(g[0].any() and not g[1].any() for g in grads)


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ([(2, 3, 4, 4), (2, 5, 2, 2)], [(2, 6, 4, 4), (2, 5, 2, 2)], r"Conv1x1\(3, 6\) in front.*ADAPTER"),
        ([(2, 3, 4, 4)], [(2, 3, 4, 4)], "two maps of the student with two of the teacher, not 1 with 1"),
        ([(2, 3, 4, 4), (2, 5, 2, 2)], [(2, 3, 5, 4), (2, 5, 2, 2)], "map sizes"),
        ([(2, 3, 4, 4), (2, 5, 2, 2)], [(1, 3, 4, 4), (1, 5, 2, 2)], "counts differ"),
        ([(2, 3, 4, 4), (1, 5, 2, 2)], [(2, 3, 4, 4), (1, 5, 2, 2)], "of the same images"),
        ([(2, 3), (2, 5)], [(2, 3), (2, 5)], "have none"),
    ],
)
def test_maps_that_cannot_be_compared_are_named_with_what_to_do(student, teacher, words):
    with pytest.raises(ValueError, match=words):
        FSP()([torch.zeros(s) for s in student], [torch.zeros(t) for t in teacher])


def test_a_mask_of_another_shape_is_an_error(loss):
    masks = [torch.ones(2, 1, 3, 4).bool(), torch.ones(2, 1, 3, 4).bool()]
    with pytest.raises(ValueError, match=r"bool mask of shape \(2, 1, 6, 8\)"):
        loss(maps(), maps(), masks)


def test_an_unknown_reduction_is_an_error():
    with pytest.raises(ValueError, match="'batch'"):
        FSP("batch")
