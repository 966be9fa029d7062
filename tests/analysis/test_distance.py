"""The distance of two features, split into direction and length: by hand, by a slow loop, in parts."""

import math

import pytest
import torch

from det_distill.analysis.distance import Distance, DistanceMeter


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def distance(student, teacher, *args):
    meter = DistanceMeter()
    assert meter(student, teacher, *args) == 0
    return meter.result()


def test_by_hand_a_longer_vector_at_a_right_angle():
    # |s| = 3, |t| = 4, cos 0: |s - t|^2 = 25 = (3 - 4)^2 + 2 * 3 * 4
    found = distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]))
    assert found == Distance(1, 25.0, 1.0, 24.0, 0.0, 0.75, 0)
    assert found.magnitude_share == 1 / 25 and found.direction_share == 24 / 25


@pytest.mark.parametrize("shape", [(50, 7), (3, 7, 4, 5)])
def test_the_two_parts_add_up_to_the_squared_distance(shape):
    student, teacher = torch.randn(shape) * 3 + 1, torch.randn(shape)
    found = distance(student, teacher)
    assert found.magnitude + found.direction == pytest.approx(found.squared, rel=1e-12)
    assert found.squared == pytest.approx((student - teacher).square().sum(1).mean().item(), rel=1e-6)
    assert min(found.magnitude, found.direction) > 0 and found.rows == student.numel() // 7


def test_a_slow_loop_over_cells_gives_the_same_means():
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    found = distance(student, teacher)
    cosines, ratios, magnitudes = [], [], []
    for b in range(2):
        for y in range(3):
            for x in range(4):
                s, t = student[b, :, y, x], teacher[b, :, y, x]
                cosines.append(torch.cosine_similarity(s, t, dim=0).item())
                ratios.append((s.norm() / t.norm()).item())
                magnitudes.append((s.norm() - t.norm()).item() ** 2)
    assert found.cosine == pytest.approx(sum(cosines) / 24, rel=1e-5)
    assert found.norm_ratio == pytest.approx(sum(ratios) / 24, rel=1e-5)
    assert found.magnitude == pytest.approx(sum(magnitudes) / 24, rel=1e-5)


def test_scaling_is_all_magnitude_and_rotating_all_direction():
    teacher = torch.randn(40, 6)
    scaled, turned = (
        distance(1.5 * teacher, teacher),
        distance(teacher @ torch.eye(6)[[1, 0, 3, 2, 5, 4]], teacher),
    )
    assert scaled.magnitude_share == pytest.approx(1) and scaled.norm_ratio == pytest.approx(1.5)
    assert scaled.cosine == pytest.approx(1)
    assert turned.direction_share == pytest.approx(1) and turned.norm_ratio == pytest.approx(1)
    same = distance(teacher, teacher)
    assert (same.squared, same.magnitude, same.magnitude_share, same.direction_share) == (0, 0, 0, 0)


def test_padding_is_left_out_and_what_is_added_in_parts_is_the_same_as_at_once():
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    valid = torch.zeros(2, 1, 3, 4, dtype=torch.bool)
    valid[0], valid[1, :, :2, :3] = True, True
    padded = student.masked_fill(~valid, float("nan"))
    meter = DistanceMeter()
    meter(student[:1], teacher[:1])
    meter(student[1:, :, :2, :3], teacher[1:, :, :2, :3])
    assert distance(padded, teacher, valid) == pytest.approx(meter.result(), rel=1e-12)
    lists = DistanceMeter()
    lists([padded, student], [teacher, student], [valid, None])
    assert lists.result().rows == 18 + 24


def test_zero_rows_count_in_the_distance_and_not_in_the_cosine():
    student, teacher = (
        torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0]]),
        torch.tensor([[0.0, 3.0], [4.0, 0.0], [0.0, 0.0]]),
    )
    found = distance(student, teacher)
    assert found == Distance(3, (9 + 4 + 1) / 3, (9 + 4 + 1) / 3, 0.0, 1.0, (0 + 0.5) / 2, 2)
    assert math.isnan(distance(torch.zeros(2, 3), torch.zeros(2, 3)).cosine)


def test_what_cannot_be_compared_is_named():
    meter = DistanceMeter("pair 'x'")
    with pytest.raises(ValueError, match=r"pair 'x': the student gives \(2, 3\) and the teacher \(2, 4\)"):
        meter(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="the teacher no feature"):
        meter(torch.zeros(2, 3), None)
    with pytest.raises(ValueError, match="pair 'x': no row was compared"):
        meter.result()
