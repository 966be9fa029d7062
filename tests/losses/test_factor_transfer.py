"""`FactorTransfer`: numbers of the authors' code, values by hand, the scale law."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.losses import FactorTransfer, scale_law, unit_norm

# Recorded from Jangho-Kim/Factor-Transfer-pytorch, utils.py FT + L1Loss; see `ft_l1/meta` in the file.
RECORDED = np.load(Path(__file__).parent / "reference" / "factor_transfer.npz")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def by_loops(student, teacher, p):
    """sum |d|^p of each sample, written with plain Python numbers."""
    sums = []
    for s, t in zip(student.flatten(1).tolist(), teacher.flatten(1).tolist(), strict=True):
        s_norm, t_norm = math.sqrt(sum(x * x for x in s)), math.sqrt(sum(x * x for x in t))
        sums.append(sum(abs(x / s_norm - y / t_norm) ** p for x, y in zip(s, t, strict=True)))
    return sums


def test_value_and_gradient_are_those_of_the_authors_code():
    student = torch.from_numpy(RECORDED["ft_l1/student"]).requires_grad_()
    value = FactorTransfer()(student, torch.from_numpy(RECORDED["ft_l1/teacher"]))
    value.backward()
    assert value.item() == pytest.approx(float(RECORDED["ft_l1/value"]), rel=1e-5)
    expected = torch.from_numpy(RECORDED["ft_l1/grad_student"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_two_vectors_by_hand():
    # (3, 4) becomes (0.6, 0.8) and (0, 2) becomes (0, 1): d = (0.6, -0.2), |d| sums to 0.8, d^2 to 0.40.
    student, teacher = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
    values = {(1, "mean"): 0.4, (1, "sum"): 0.8, (2, "mean"): 0.2, (2, "sum"): 0.4}
    # n = 2 elements: sqrt(2 / 2048) = 1 / 32 for p = 1, 2 / 2048 for p = 2.
    values |= {(1, "scaled"): 0.4 / 32, (2, "scaled"): 0.2 / 1024}
    for (p, reduction), expected in values.items():
        assert FactorTransfer(p, reduction)(student, teacher).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("p", [1, 2])
def test_reductions_divide_the_sums_of_a_slow_loop_as_documented(p):
    student, teacher = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    mean_sum, n = sum(by_loops(student, teacher, p)) / 3, 2 * 4 * 5
    expected = {"sum": mean_sum, "mean": mean_sum / n}
    expected["scaled"] = expected["mean"] * (math.sqrt(n / 2048) if p == 1 else n / 2048)
    for reduction, value in expected.items():
        assert FactorTransfer(p, reduction)(student, teacher).item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_a_positive_scale_on_either_side_changes_nothing_and_a_negative_one_does(p):
    loss, student, teacher = FactorTransfer(p), torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    expected = loss(student, teacher).item()
    scales = torch.tensor([250.0, 0.01]).view(2, 1, 1, 1)  # each sample has its own norm
    assert loss(student * scales, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert loss(student, teacher * scales).item() == pytest.approx(expected, rel=1e-5)
    assert loss(-student, teacher).item() != pytest.approx(expected, rel=1e-2)


def test_the_gradient_is_orthogonal_to_the_students_factor():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    FactorTransfer()(student, torch.randn(2, 3, 4, 4)).backward()
    along = (student.grad * student.detach()).flatten(1).sum(1).abs()
    assert (along < 1e-5 * student.grad.flatten(1).norm(dim=1)).all()


def test_opposite_factors_reach_the_largest_squared_distance():
    factor = torch.randn(2, 3, 4, 4)  # |u - (-u)|^2 = 4 for a unit vector u
    assert FactorTransfer(2, "sum")(factor, -factor).item() == pytest.approx(4.0, rel=1e-5)


def test_the_scale_law_has_its_documented_values():
    assert scale_law(32 * 8 * 8) == pytest.approx(0.0249, abs=5e-5)
    assert scale_law(256 * 7 * 7) == pytest.approx(0.0101, abs=5e-5)
    assert scale_law(512 * 38 * 50) == pytest.approx(0.00114, abs=5e-6)
    assert scale_law(100, p=2) == 0.02
    assert torch.equal(scale_law(torch.tensor([50.0, 100.0]), p=2), torch.tensor([0.04, 0.02]))
    with pytest.raises(ValueError, match="p = 3"):
        scale_law(10, p=3)


@pytest.mark.parametrize("p", [1, 2])
def test_unrelated_factors_obey_the_scale_law_on_small_and_large_maps(p):
    mean, scaled, value = FactorTransfer(p), FactorTransfer(p, "scaled"), {}
    for shape in ((32, 8, 8), (512, 38, 50)):
        student, teacher = torch.randn(2, *shape), torch.randn(2, *shape)
        value[shape] = mean(student, teacher).item(), scaled(student, teacher).item()
        assert value[shape][0] == pytest.approx(scale_law(math.prod(shape), p), rel=0.04)
    (small_mean, small), (large_mean, large) = value.values()
    ratio = 512 * 38 * 50 / (32 * 8 * 8)  # 475; its square root is 21.8
    assert small_mean / large_mean == pytest.approx(ratio ** (p / 2), rel=0.05)
    assert small == pytest.approx(large, rel=0.05)
    assert small == pytest.approx(small_mean, rel=1e-5)  # 32x8x8 is the size that "scaled" refers to


def test_one_weight_means_the_same_on_every_image_of_an_unequal_batch():
    student, teacher = torch.randn(2, 64, 32, 32), torch.randn(2, 64, 32, 32)
    valid = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    valid[0], valid[1, :, :8, :8] = True, True
    both = FactorTransfer(reduction="scaled")(student, teacher, valid).item()
    large = FactorTransfer(reduction="scaled")(student[:1], teacher[:1]).item()
    assert both == pytest.approx(large, rel=0.03)
    assert (
        FactorTransfer()(student, teacher, valid).item()
        > 2 * FactorTransfer()(student[:1], teacher[:1]).item()
    )


def test_a_norm_below_eps_is_not_divided_by():
    tiny = torch.full((1, 4), 1e-8)  # norm 2e-8; 1e-8 / 1e-6 = 0.01
    assert torch.allclose(unit_norm(tiny), torch.full((1, 4), 0.01))
    student = torch.zeros(1, 4, requires_grad=True)
    FactorTransfer()(student, torch.ones(1, 4)).backward()
    assert student.grad.abs().max() <= 1e6


@pytest.mark.parametrize(("p", "reduction", "word"), [(3, "mean", "p = 3"), (1, "batchmean", "batchmean")])
def test_an_unknown_power_or_reduction_is_refused_when_built(p, reduction, word):
    with pytest.raises(ValueError, match=word):
        FactorTransfer(p, reduction)


def test_the_hyper_parameters_are_shown():
    assert repr(FactorTransfer(2, "sum")) == "FactorTransfer(p=2, reduction='sum')"
