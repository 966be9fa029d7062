"""`LogitEnsemble`: the means it forms, by hand and as probabilities, and the loss they stand for."""

import math

import pytest
import torch

from det_distill.adapters import LogitEnsemble
from det_distill.losses import SoftTarget

KINDS = ("logits", "probabilities", "log_probabilities")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def two(*shape):
    return [torch.randn(shape), 3 * torch.randn(shape)]


def test_the_mean_of_logits_by_hand():
    mean = LogitEnsemble("logits")([torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, -4.0]])])
    assert mean.tolist() == [[2.0, -2.0]]


def test_the_mean_of_probabilities_by_hand():
    # (3/4, 1/4) and (1/4, 3/4) average to (1/2, 1/2).
    mean = LogitEnsemble("probabilities")(
        [torch.tensor([[3.0, 1.0]]).log(), torch.tensor([[1.0, 3.0]]).log()]
    )
    torch.testing.assert_close(mean, torch.tensor([[0.5, 0.5]]).log())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_at_the_temperature_the_probabilities_are_the_arithmetic_mean(temperature):
    teachers = two(5, 7)
    mean = LogitEnsemble("probabilities", temperature)(teachers)
    expected = torch.stack([(z / temperature).softmax(1) for z in teachers]).mean(0)
    torch.testing.assert_close((mean / temperature).softmax(1), expected)


@pytest.mark.parametrize("kind", ["logits", "log_probabilities"])
def test_the_other_kinds_give_the_geometric_mean_of_probabilities_made_to_sum_to_one(kind):
    teachers = two(5, 7)
    product = math.prod(z.softmax(1) for z in teachers).sqrt()
    expected = product / product.sum(1, keepdim=True)
    torch.testing.assert_close(LogitEnsemble(kind)(teachers).softmax(1), expected)


def test_the_mean_of_logits_and_of_log_probabilities_differ_by_a_constant_per_row():
    teachers = two(5, 7)
    difference = LogitEnsemble("logits")(teachers) - LogitEnsemble("log_probabilities", 2.0)(teachers)
    assert difference.std(1).max() < 1e-5 and difference.abs().min() > 0.1


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 4)])
def test_the_mean_of_probabilities_has_the_gradient_of_the_mean_of_the_single_teachers_losses(shape):
    teachers, student = two(*shape), torch.randn(shape, requires_grad=True)
    loss = SoftTarget(2.0)
    (expected,) = torch.autograd.grad(sum(loss(student, z) for z in teachers) / 2, student)
    value = loss(student, LogitEnsemble("probabilities", 2.0)(teachers))
    (grad,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-7)


def test_sigmoid_heads_average_each_channels_probability():
    teachers = two(2, 3, 4, 4)
    mean = LogitEnsemble("probabilities", 2.0)(teachers)
    expected = torch.stack([(z / 2).sigmoid() for z in teachers]).mean(0)
    torch.testing.assert_close((mean / 2).sigmoid(), expected)
    rows = [z[:, :, 0, 0] for z in teachers]
    single = LogitEnsemble("probabilities", 2.0, "bernoulli")(rows)
    torch.testing.assert_close(single, mean[:, :, 0, 0])


@pytest.mark.parametrize("distribution", ["softmax", "bernoulli"])
@pytest.mark.parametrize("kind", KINDS)
def test_teachers_that_agree_are_answered_with_what_they_say(kind, distribution):
    logits = torch.randn(5, 7)
    mean = LogitEnsemble(kind, 2.0, distribution)([logits, logits, logits])
    if distribution == "softmax":
        mean, logits = (mean / 2).log_softmax(1), (logits / 2).log_softmax(1)
    torch.testing.assert_close(mean, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_teachers_logits_come_back_as_they_are(kind):
    logits = torch.randn(5, 7)
    assert torch.equal(LogitEnsemble(kind)([logits]), logits)


@pytest.mark.parametrize("shape", [(1, 2), (1, 2, 1, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_stay_finite_in_half_precision_too(kind, shape):
    first, second = torch.tensor([6e4, -6e4]).view(shape).half(), torch.tensor([-6e4, 6e4]).view(shape).half()
    mean = LogitEnsemble(kind)([first, second])
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean.flatten().softmax(0), torch.tensor([0.5, 0.5]))


def test_teachers_of_other_classes_are_an_error_that_names_the_shapes():
    with pytest.raises(ValueError, match=r"\(5, 7\), \(5, 8\)"):
        LogitEnsemble()([torch.zeros(5, 7), torch.zeros(5, 8)])


@pytest.mark.parametrize("options", [{"kind": "median"}, {"temperature": 0.0}, {"distribution": "sigmoid"}])
def test_options_that_make_no_sense_are_errors(options):
    with pytest.raises(ValueError, match="LogitEnsemble"):
        LogitEnsemble(**options)
