"""`DecoupledTarget`: numbers of the authors' code, values by hand, its relation to soft targets, extreme logits."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.losses import DecoupledTarget, SoftTarget

# Recorded from megvii-research/mdistiller, mdistiller/distillers/DKD.py dkd_loss; see `dkd/meta` in the file.
RECORDED = np.load(Path(__file__).parent / "reference" / "soft_target.npz")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def value_and_grad(loss, student, teacher, labels):
    student = student.detach().clone().requires_grad_()
    value = loss(student, teacher, labels=labels)
    (grad,) = torch.autograd.grad(value, student)
    return value.detach(), grad


def terms_by_loops(student, teacher, labels, temperature):
    """TCKD and NCKD of each row, from plain probabilities of plain Python numbers."""
    rows = []
    for s, t, y in zip(student.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        q, p = ([math.exp(x / temperature) for x in row] for row in (s, t))
        q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
        target = p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        others = [
            (a / (1 - p[y]), b / (1 - q[y])) for k, (a, b) in enumerate(zip(p, q, strict=True)) if k != y
        ]
        rows.append((target, sum(a * math.log(a / b) for a, b in others), p[y]))
    return rows


def test_value_and_gradient_are_those_of_the_authors_code():
    student, teacher, labels = (
        torch.from_numpy(RECORDED[f"dkd/{n}"]) for n in ("student", "teacher", "target")
    )
    value, grad = value_and_grad(DecoupledTarget(1.0, 8.0, 4.0), student, teacher, labels)
    assert value.item() == pytest.approx(float(RECORDED["dkd/value"]), rel=1e-5)
    expected = torch.from_numpy(RECORDED["dkd/grad_student"])
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_three_classes_by_hand():
    # Teacher (1/2, 3/8, 1/8), student (1/4, 3/8, 3/8), label 0. Against the others: (1/2, 1/2) and (1/4, 3/4).
    # Among the others: (3/4, 1/4) and (1/2, 1/2).
    teacher, student = torch.tensor([[4.0, 3.0, 1.0]]).log(), torch.tensor([[2.0, 3.0, 3.0]]).log()
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    others = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    label = torch.tensor([0])
    for alpha, beta in ((1, 0), (0, 1), (2, 3)):
        value = DecoupledTarget(alpha, beta, 1.0)(student, teacher, labels=label)
        assert value.item() == pytest.approx(alpha * target + beta * others, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_value_is_that_of_a_slow_loop_over_probabilities(temperature):
    student, teacher, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 4, 3])
    terms = terms_by_loops(student, teacher, labels, temperature)
    expected = temperature**2 * sum(1.5 * target + 0.25 * others for target, others, _ in terms) / 6
    value = DecoupledTarget(1.5, 0.25, temperature)(student, teacher, labels=labels)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_with_beta_the_teachers_doubt_of_the_label_it_is_the_soft_target():
    student, teacher, label = torch.randn(1, 5), torch.randn(1, 5), torch.tensor([3])
    doubt = 1 - (teacher / 2).softmax(1)[0, 3].item()
    value = DecoupledTarget(1.0, doubt, 2.0)(student, teacher, labels=label)
    torch.testing.assert_close(value, SoftTarget(2.0)(student, teacher))


def test_a_constant_on_all_logits_of_a_row_changes_nothing():
    student, teacher, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 4, 3])
    loss, constant = DecoupledTarget(), torch.randn(6, 1)
    expected = loss(student, teacher, labels=labels)
    torch.testing.assert_close(loss(student + constant, teacher - constant, labels=labels), expected)


def test_the_labels_logit_plays_no_part_among_the_others():
    student, teacher, labels = torch.randn(6, 5), torch.randn(6, 5), torch.tensor([0, 4, 2, 1, 4, 3])
    loss = DecoupledTarget(0.0, 1.0, 1.0)
    moved = student.scatter(1, labels[:, None], 50.0)
    expected, _ = value_and_grad(loss, student, teacher, labels)
    value, grad = value_and_grad(loss, moved, teacher, labels)
    torch.testing.assert_close(value, expected)
    assert not grad.gather(1, labels[:, None]).any()


@pytest.mark.parametrize("gap", [1e2, 1e4])
def test_confident_and_contrary_logits_have_an_exact_finite_value(gap):
    # The teacher is sure of the label, 0, the student of class 1. Against the others that costs -log q_y = 2 * gap.
    # Among the others the teacher knows nothing, (1/2, 1/2), and the student says (1, 0): log(1/2) + gap.
    teacher, student = torch.tensor([[gap, 0.0, 0.0]]), torch.tensor([[-gap, gap, -gap]])
    label = torch.tensor([0])
    value, grad = value_and_grad(DecoupledTarget(1.0, 0.0, 1.0), student, teacher, label)
    assert value.item() == pytest.approx(2 * gap, rel=1e-6) and grad.isfinite().all()
    value, grad = value_and_grad(DecoupledTarget(0.0, 1.0, 1.0), student, teacher, label)
    assert value.item() == pytest.approx(math.log(0.5) + gap, rel=1e-5) and grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_in_half_precision_give_finite_gradients(dtype):
    student, teacher = torch.tensor([[1e4, -1e4, 0.0]]).to(dtype), torch.tensor([[-1e4, 1e4, 0.0]]).to(dtype)
    for label in range(3):
        value, grad = value_and_grad(
            DecoupledTarget(temperature=1.0), student, teacher, torch.tensor([label])
        )
        assert value.isfinite() and value > 0 and grad.isfinite().all()


def test_the_last_class_may_be_the_label_as_the_background_is():
    # Two classes, label 1: there is one other, of which nothing can be said; sigmoid(+-ln 3) = 3/4 and 1/4.
    teacher, student = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[math.log(3), 0.0]])
    value = DecoupledTarget(temperature=1.0)(student, teacher, labels=torch.tensor([1]))
    assert value.item() == pytest.approx(0.5 * math.log(3), rel=1e-6)


def test_maps_and_a_wrong_number_of_labels_are_errors():
    with pytest.raises(ValueError, match="SoftTarget"):
        DecoupledTarget()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4), labels=torch.zeros(2).long())
    with pytest.raises(ValueError, match="as many labels"):
        DecoupledTarget()(torch.zeros(2, 3), torch.zeros(2, 3), labels=torch.zeros(3).long())


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"alpha": 0.0, "beta": 0.0}, {"temperature": 0.0}])
def test_options_that_make_no_sense_are_errors(options):
    with pytest.raises(ValueError, match="DecoupledTarget"):
        DecoupledTarget(**options)
