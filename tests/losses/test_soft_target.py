"""`SoftTarget`: numbers of the authors' code, values by hand, the laws of its gradient."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.losses import LogitRegression, SoftTarget

# Recorded from megvii-research/mdistiller, mdistiller/distillers/KD.py kd_loss; see `kd_T4/meta` in the file.
RECORDED = np.load(Path(__file__).parent / "reference" / "soft_target.npz")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def gradient(loss, student, teacher, *args):
    student = student.detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(student, teacher, *args), student)
    return grad


def by_loops(student, teacher, temperature, distribution):
    """The value for rows, from plain probabilities of plain Python numbers."""
    total = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        if distribution == "softmax":
            q, p = ([math.exp(x / temperature) for x in row] for row in (s, t))
            outcomes = [(a / sum(p), b / sum(q)) for a, b in zip(p, q, strict=True)]
        else:
            q, p = ([1 / (1 + math.exp(-x / temperature)) for x in row] for row in (s, t))
            outcomes = [*zip(p, q, strict=True), *((1 - a, 1 - b) for a, b in zip(p, q, strict=True))]
        total += sum(a * math.log(a / b) for a, b in outcomes)
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("temperature", [1, 4])
def test_value_and_gradient_are_those_of_the_authors_code(temperature):
    case = f"kd_T{temperature}"
    student = torch.from_numpy(RECORDED[f"{case}/student"]).requires_grad_()
    value = SoftTarget(temperature)(student, torch.from_numpy(RECORDED[f"{case}/teacher"]))
    value.backward()
    assert value.item() == pytest.approx(float(RECORDED[f"{case}/value"]), rel=1e-5)
    expected = torch.from_numpy(RECORDED[f"{case}/grad_student"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_softmax_by_hand():
    # T = 2: logits (2 ln 3, 0) soften to (3/4, 1/4), equal ones to (1/2, 1/2). The second row agrees.
    teacher = torch.tensor([[2 * math.log(3), 0.0], [1.0, 5.0]])
    student = torch.tensor([[0.0, 0.0], [1.0, 5.0]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert SoftTarget(2.0)(student, teacher).item() == pytest.approx(4 * divergence / 2, rel=1e-6)


def test_bernoulli_by_hand():
    # T = 1: sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2; the second channel agrees and adds nothing to the sum.
    teacher, student = torch.tensor([[math.log(3), -1.0]]), torch.tensor([[0.0, -1.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert SoftTarget(1.0, "bernoulli")(student, teacher).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("distribution", ["softmax", "bernoulli"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_value_is_that_of_a_slow_loop_over_probabilities(distribution, temperature):
    student, teacher = 2 * torch.randn(5, 7), 2 * torch.randn(5, 7)
    expected = by_loops(student, teacher, temperature, distribution)
    value = SoftTarget(temperature, distribution)(student, teacher)
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distribution", ["softmax", "bernoulli"])
def test_every_cell_of_a_map_is_a_row(distribution):
    student, teacher = torch.randn(2, 6, 3, 4), torch.randn(2, 6, 3, 4)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, 6) for x in (student, teacher)]
    loss = SoftTarget(2.0, distribution)
    torch.testing.assert_close(loss(student, teacher), loss(*rows))


def test_auto_is_softmax_for_rows_and_bernoulli_for_maps():
    for shape, distribution in (((5, 6), "softmax"), ((2, 6, 3, 4), "bernoulli")):
        student, teacher = torch.randn(shape), torch.randn(shape)
        expected = SoftTarget(4.0, distribution)(student, teacher)
        assert SoftTarget()(student, teacher).item() == expected.item()


@pytest.mark.parametrize("distribution", ["softmax", "bernoulli"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_t_times_the_difference_of_probabilities_over_the_rows(distribution, temperature):
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    squash = torch.sigmoid if distribution == "bernoulli" else lambda z: z.softmax(1)
    q, p = squash(student / temperature), squash(teacher / temperature)
    grad = gradient(SoftTarget(temperature, distribution), student, teacher)
    torch.testing.assert_close(grad, temperature * (q - p) / 5, rtol=1e-5, atol=1e-7)


def test_at_a_large_temperature_the_gradient_is_a_kth_of_centred_logit_regression():
    student, teacher = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    expected = gradient(LogitRegression(centre=True), student, teacher) / 7
    grad = gradient(SoftTarget(1e5), student, teacher)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-6)


def test_at_a_large_temperature_the_bernoulli_gradient_is_a_quarter_of_logit_regression():
    student, teacher = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    expected = gradient(LogitRegression(), student, teacher) / 4
    grad = gradient(SoftTarget(1e5, "bernoulli"), student, teacher)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-6)


def test_a_constant_on_all_logits_of_a_row_matters_to_sigmoids_alone():
    student, teacher, constant = torch.randn(5, 7), torch.randn(5, 7), torch.randn(5, 1)
    for distribution, moves in (("softmax", False), ("bernoulli", True)):
        loss = SoftTarget(2.0, distribution)
        before, after = loss(student, teacher).item(), loss(student + constant, teacher).item()
        assert (after != pytest.approx(before, rel=1e-5)) is moves


@pytest.mark.parametrize("distribution", ["softmax", "bernoulli"])
@pytest.mark.parametrize("gap", [1e2, 1e4])
def test_confident_and_contrary_logits_have_an_exact_finite_value(distribution, gap):
    # p = (1, 0), q = (0, 1): the teacher's outcome costs the student -log q = 2 * gap, or gap in each of two channels.
    teacher, student = torch.tensor([[gap, -gap]]), torch.tensor([[-gap, gap]])
    loss = SoftTarget(1.0, distribution)
    assert loss(student, teacher).item() == pytest.approx(2 * gap, rel=1e-6)
    expected = torch.tensor([[-1.0, 1.0]])
    torch.testing.assert_close(gradient(loss, student, teacher), expected)


@pytest.mark.parametrize("distribution", ["softmax", "bernoulli"])
def test_nearly_equal_logits_have_the_value_of_double_precision(distribution):
    teacher = 5 * torch.randn(200, 9)
    student = teacher + 0.01 * torch.randn(200, 9)
    loss = SoftTarget(1.0, distribution)
    expected = loss(student.double(), teacher.double()).item()
    assert 0 < expected < 1e-3
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_an_error(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        SoftTarget(temperature)


def test_an_unknown_distribution_is_an_error():
    with pytest.raises(ValueError, match="bernoulli"):
        SoftTarget(4.0, "sigmoid")
