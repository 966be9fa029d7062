"""`ChannelWise`: numbers of the authors' code, values by hand, the gradient, padding."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.losses import ChannelWise

# Recorded from irfanICMLL/TorchDistiller, SemSeg-distill/utils/criterion.py CriterionCWD; see `*/meta`.
RECORDED = np.load(Path(__file__).parent / "reference" / "channel_wise.npz")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("temperature", [1, 4])
def test_value_and_gradient_are_those_of_the_authors_code(temperature):
    case = f"cwd_T{temperature}"
    student = torch.from_numpy(RECORDED[f"{case}/student"]).requires_grad_()
    value = ChannelWise(temperature)(student, torch.from_numpy(RECORDED[f"{case}/teacher"]))
    value.backward()
    assert value.item() == pytest.approx(float(RECORDED[f"{case}/value"]), rel=1e-5)
    expected = torch.from_numpy(RECORDED[f"{case}/grad_student"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_two_cells_by_hand():
    # Teacher (0, 2 log 3) at temperature 2 is (1/4, 3/4), the student is (1/2, 1/2).
    teacher = torch.tensor([0.0, 2 * math.log(3)]).view(1, 1, 1, 2)
    divergence = math.log(2) - (math.log(4) - 0.75 * math.log(3))  # cross-entropy less entropy
    value = ChannelWise(2)(torch.full((1, 1, 1, 2), 7.0), teacher)
    assert value.item() == pytest.approx(4 * divergence, rel=1e-5)


def by_loops(student, teacher, t):
    """t^2 sum p log(p / q) over the cells of each channel, averaged, in plain Python numbers."""
    found = []
    channels = (x.flatten(0, 1).flatten(1).tolist() for x in (student, teacher))
    for s, u in zip(*channels, strict=True):
        q, p = ([math.exp(v / t) for v in values] for values in (s, u))
        q, p = [v / sum(q) for v in q], [v / sum(p) for v in p]
        found.append(t**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return sum(found) / len(found)


@pytest.mark.parametrize("temperature", [0.5, 1, 4])
def test_the_sum_over_cells_is_divided_by_images_and_channels(temperature):
    student, teacher = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 4, 5)
    expected = by_loops(student, teacher, temperature)
    assert ChannelWise(temperature)(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_the_difference_of_the_distributions():
    student, teacher = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 4, 5)
    ChannelWise(4)(student, teacher).backward()
    q, p = ((x.detach().flatten(2) / 4).softmax(2).view_as(x) for x in (student, teacher))
    torch.testing.assert_close(student.grad, 4 / (2 * 3) * (q - p))


def test_a_constant_added_to_a_channel_changes_nothing_and_a_factor_does():
    loss, student, teacher = ChannelWise(), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    expected, shift = loss(student, teacher).item(), torch.randn(2, 3, 1, 1) * 5
    assert loss(student + shift, teacher - shift).item() == pytest.approx(expected, rel=1e-4)
    assert loss(2 * student, teacher).item() != pytest.approx(expected, rel=0.1)


def test_at_a_high_temperature_it_is_half_the_squared_difference_of_the_centred_maps_per_cell():
    student, teacher = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 3, 4, 5).double()
    difference = student - teacher
    difference = difference - difference.mean((2, 3), keepdim=True)
    expected = difference.square().mean().item() / 2
    assert ChannelWise(1000)(student, teacher).item() == pytest.approx(expected, rel=1e-2)


def test_it_does_not_fall_with_the_size_of_the_map():
    values = [
        ChannelWise()(torch.randn(2, 8, *size), torch.randn(2, 8, *size)).item()
        for size in ((8, 8), (64, 96))
    ]
    assert values[0] == pytest.approx(values[1], rel=0.15)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_cells_of_the_padding_have_no_probability(temperature):
    student, teacher = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    student[..., 3], teacher[..., 3] = 100.0, 50.0  # would take all of it
    valid = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    valid[..., 3] = False
    loss = ChannelWise(temperature)
    expected = loss(student[..., :3], teacher[..., :3]).item()
    student.requires_grad_()
    value = loss(student, teacher, valid)
    value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-5) and expected < 10
    assert student.grad.isfinite().all() and not student.grad[..., 3].any()


def test_a_temperature_that_is_not_above_zero_is_refused_when_built():
    for temperature in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature"):
            ChannelWise(temperature)


def test_rows_have_no_cells():
    with pytest.raises(ValueError, match="cells of two maps"):
        ChannelWise()(torch.zeros(5, 4), torch.zeros(5, 4))


def test_the_hyper_parameters_are_shown():
    assert repr(ChannelWise(4)) == "ChannelWise(temperature=4)"
