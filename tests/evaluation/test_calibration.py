"""The expected calibration error, worked out by hand."""

import math

import pytest
import torch

from det_distill.evaluation.calibration import expected_calibration_error


def error(confidence, right, **options):
    return expected_calibration_error(
        torch.tensor(confidence, dtype=torch.float64), torch.tensor(right, dtype=torch.bool), **options
    )


def test_who_is_right_as_often_as_said_has_no_error():
    assert error([0.75] * 4 + [0.5] * 2, [1, 1, 1, 0, 1, 0]) == pytest.approx(0.0)


def test_who_is_sure_and_always_wrong_has_the_error_one():
    assert error([1.0] * 3, [0, 0, 0]) == 1.0


def test_one_bin_compares_the_means():
    assert error([0.9, 0.6, 0.3], [1, 0, 0], bins=1) == pytest.approx(0.6 - 1 / 3)


def test_bins_are_weighted_by_their_images():
    # 15 bins: 0.95 and 0.97 in the last, 0.5 in the middle; |1/2 - 0.96| of two images, |1 - 0.5| of one
    assert error([0.95, 0.97, 0.5], [1, 0, 1]) == pytest.approx(2 / 3 * 0.46 + 1 / 3 * 0.5)


def test_what_is_too_sure_in_one_bin_does_not_make_up_for_another():
    assert error([0.9, 0.3], [0, 1], bins=1) == pytest.approx(0.1)
    assert error([0.9, 0.3], [0, 1], bins=2) == pytest.approx((0.9 + 0.7) / 2)


@pytest.mark.parametrize("bins", [3, 5, 15])
def test_an_edge_belongs_to_the_bin_below_it(bins):
    for edge in range(1, bins):
        confidence = [
            edge / bins,
            (edge + 0.5) / bins,
        ]  # two bins: their errors do not make up for each other
        assert error(confidence, [0, 1], bins=bins) == pytest.approx((confidence[0] + 1 - confidence[1]) / 2)
        confidence[1] = (edge - 0.5) / bins  # one bin: they do
        assert error(confidence, [0, 1], bins=bins) == pytest.approx(
            abs(confidence[0] - 1 + confidence[1]) / 2
        )


def test_a_loop_over_the_bins_says_the_same():
    g = torch.Generator().manual_seed(0)
    confidence = torch.rand(500, generator=g, dtype=torch.float64)
    right = torch.rand(500, generator=g) < confidence**2
    total = 0.0
    for m in range(15):
        pairs = zip(confidence.tolist(), right.tolist(), strict=True)
        inside = [(c, r) for c, r in pairs if m / 15 < c <= (m + 1) / 15]
        if inside:
            gap = sum(r for _, r in inside) / len(inside) - sum(c for c, _ in inside) / len(inside)
            total += len(inside) / 500 * abs(gap)
    assert expected_calibration_error(confidence, right) == pytest.approx(total, rel=1e-9)


def test_nothing_and_what_is_not_finite_have_no_error():
    assert math.isnan(error([], [])) and math.isnan(error([0.5, float("nan")], [1, 0]))
