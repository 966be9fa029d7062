"""`DarkRank`: numbers of an author's code, orderings by hand and by slow loops, what it does not depend on."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.losses import DarkRank, arithmetic

# Recorded from lenscloth/RKD, metric/loss.py HardDarkRank; see `<case>/meta` in the file.
RECORDED = np.load(Path(__file__).parent / "reference" / "darkrank.npz")
CASES = {"darkrank_hard_a3_b3_l4": (3, 4), "darkrank_hard_a2_b3_l3": (2, 3)}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def recorded(key):
    return torch.from_numpy(np.asarray(RECORDED[key]))


def value_and_grad(loss, student, teacher, *args):
    student = student.detach().clone().requires_grad_()
    value = loss(student, teacher, *args)
    (grad,) = torch.autograd.grad(value, student)
    return value.item(), grad


def slow_lists(teacher, queries, length):
    """Each query's candidates in the teacher's order."""
    unit = teacher / teacher.norm(dim=1, keepdim=True)
    lists = []
    for q in queries:
        others = [i for i in range(len(unit)) if i != q]
        lists.append(sorted(others, key=lambda i: (unit[q] - unit[i]).norm().item())[:length])
    return lists


def slow_probability(embedding, query, ordering, alpha, beta):
    """The product of softmaxes, as written in the paper."""
    unit = embedding / embedding.norm(dim=1, keepdim=True)
    weights = [torch.exp(-alpha * (unit[query] - unit[i]).norm() ** beta) for i in ordering]
    return torch.stack([weights[k] / sum(weights[k:]) for k in range(len(ordering))]).prod()


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_on_normalised_embeddings_are_those_of_the_authors_code(case):
    alpha, length = CASES[case]
    loss = DarkRank(alpha, 3, list_length=length, normalize=False)
    value, grad = value_and_grad(loss, recorded(f"{case}/student"), recorded(f"{case}/teacher"))
    expected = recorded(f"{case}/grad_student")
    assert value == pytest.approx(float(RECORDED[f"{case}/value"]), rel=1e-5)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("case", CASES)
def test_normalising_inside_keeps_the_authors_value_and_projects_their_gradient(case):
    alpha, length = CASES[case]
    student = recorded(f"{case}/student")
    value, grad = value_and_grad(DarkRank(alpha, list_length=length), student, recorded(f"{case}/teacher"))
    theirs = recorded(f"{case}/grad_student")
    expected = theirs - (theirs * student).sum(1, keepdim=True) * student
    assert value == pytest.approx(float(RECORDED[f"{case}/value"]), rel=1e-5)
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_hard_by_hand():
    # Unit vectors at 0, 90 and 180 degrees: squared distances 2, 2, 4; with alpha = 1, beta = 2 scores are -d^2.
    student = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-2.0, 0.0]])
    # In the teacher row 0 has row 2 nearer than row 1, and row 2 has row 0 nearer.
    teacher = torch.tensor([[1.0, 0.0], [-1.0, -0.5], [-0.1, 1.0]])
    # First the one at d^2 = 4, then the one at 2: -log(e^-4 / (e^-4 + e^-2)).
    wrong = math.log1p(math.exp(2))
    equal = math.log(2)  # two at the same distance
    loss = DarkRank(1.0, 2.0)
    assert loss(student, teacher).item() == pytest.approx((wrong + equal + wrong) / 3, rel=1e-6)
    assert DarkRank(1.0, 2.0, queries="first_half")(student, teacher).item() == pytest.approx(wrong, rel=1e-6)


@pytest.mark.parametrize("candidates", ["nearest", "all"])
@pytest.mark.parametrize("queries", ["all", "first_half"])
def test_hard_is_the_negative_log_of_the_product_of_softmaxes(candidates, queries):
    student, teacher = torch.randn(7, 5).double(), torch.randn(7, 3).double()
    rows = range(7 if queries == "all" else 3)
    lists = slow_lists(teacher, rows, 4 if candidates == "nearest" else 6)
    slow = [slow_probability(student, q, its, 2.0, 1.5).log() for q, its in zip(rows, lists, strict=True)]
    loss = DarkRank(2.0, 1.5, candidates=candidates, queries=queries)
    torch.testing.assert_close(loss(student, teacher), -torch.stack(slow).mean())


@pytest.mark.parametrize("length", [2, 3, 5])
def test_soft_is_the_divergence_over_every_ordering(length):
    student, teacher = torch.randn(7, 5).double(), torch.randn(7, 3).double()
    lists = slow_lists(teacher, range(7), length)
    slow = []
    for query, its in enumerate(lists):
        orders = list(itertools.permutations(its))
        t = torch.stack([slow_probability(teacher, query, order, 3.0, 2.0) for order in orders])
        s = torch.stack([slow_probability(student, query, order, 3.0, 2.0) for order in orders])
        assert t.sum().item() == pytest.approx(1)
        slow.append((t * (t / s).log()).sum())
    loss = DarkRank(3.0, 2.0, mode="soft", list_length=length)
    torch.testing.assert_close(loss(student, teacher), torch.stack(slow).mean())


def test_power_and_scale_of_the_other_authors_are_alpha_and_beta():
    power, scale = 1.5, 2.0
    student, teacher = (torch.nn.functional.normalize(torch.randn(8, 4).double()) for _ in range(2))
    total = 0.0
    for q in range(4):  # the first half are queries, the list is the rest of the batch
        score = -(((scale**0.5 * (student - student[q])).square().sum(1)) ** power)
        order = [i for i in (teacher - teacher[q]).square().sum(1).argsort().tolist() if i != q]
        seen, likelihood = 0.0, 1.0
        for i in reversed(order):
            seen += math.exp(score[i])
            likelihood *= math.exp(score[i]) / seen
        total -= math.log(likelihood)
    loss = DarkRank(scale**power, 2 * power, candidates="all", queries="first_half")
    assert loss(student, teacher).item() == pytest.approx(total / 4, rel=1e-9)


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_a_rotation_a_scale_and_the_order_of_the_batch_do_not_count(mode):
    loss, student, teacher = DarkRank(mode=mode), torch.randn(9, 5).double(), torch.randn(9, 4).double()
    value = loss(student, teacher)
    rotation = torch.linalg.qr(torch.randn(5, 5).double()).Q
    order = torch.randperm(9)
    lengths = torch.rand(9, 1).double() + 0.5
    torch.testing.assert_close(loss(student @ rotation, teacher), value)
    torch.testing.assert_close(loss(student * lengths, 3 * teacher), value)
    torch.testing.assert_close(loss(student[order], teacher[order]), value)


def test_a_wider_teacher_whose_distances_are_the_students_gives_a_soft_loss_of_zero():
    student = torch.randn(6, 4).double()
    teacher = student @ torch.linalg.qr(torch.randn(7, 7).double()).Q[:4]
    value, grad = value_and_grad(DarkRank(mode="soft"), student, teacher)
    assert abs(value) < 1e-12 and grad.abs().max() < 1e-9


def test_descending_the_hard_loss_makes_the_student_rank_as_the_teacher():
    teacher, student = torch.randn(6, 8), torch.randn(6, 4, requires_grad=True)
    optimizer = torch.optim.Adam([student], lr=0.05)
    loss = DarkRank(candidates="all")
    for _ in range(150):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    assert slow_lists(student.detach(), range(6), 5) == slow_lists(teacher, range(6), 5)


def test_a_detached_query_gets_a_gradient_as_a_candidate_only():
    student, teacher = torch.randn(5, 4), torch.randn(5, 4)
    full, part = (DarkRank(candidates="all", detach_query=d) for d in (False, True))
    assert full(student, teacher) == part(student, teacher)
    assert not torch.allclose(
        value_and_grad(full, student, teacher)[1], value_and_grad(part, student, teacher)[1]
    )
    one = DarkRank(queries="spaced", query_count=1, detach_query=True)  # row 0 is the only query
    grad = value_and_grad(one, student, teacher)[1]
    assert not grad[0].any() and grad[1:].any()


def test_spaced_queries_are_the_same_rows_each_time_and_drawn_ones_change():
    student, teacher = torch.randn(40, 6), torch.randn(40, 6)
    spaced = DarkRank(queries="spaced", query_count=4)
    assert spaced._queries(10, student.device).tolist() == [0, 2, 5, 7]
    assert spaced(student, teacher) == spaced(student, teacher)
    drawn = DarkRank(queries="drawn", query_count=4)
    rows = [drawn._queries(40, student.device).tolist() for _ in range(3)]
    assert all(len(set(r)) == 4 for r in rows) and len(set(map(tuple, rows))) > 1
    every = DarkRank()(student, teacher)
    for queries in ("spaced", "drawn"):  # more than there are: every row
        torch.testing.assert_close(DarkRank(queries=queries, query_count=99)(student, teacher), every)


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_a_short_batch_has_shorter_lists_and_two_samples_have_nothing_to_rank(mode):
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    long, short = (DarkRank(mode=mode, list_length=n)(student, teacher) for n in (5, 3))
    assert long == short > 0
    for few in (student[:2], torch.randn(2, 5, 4, 3), torch.randn(0, 5, 4, 3), torch.randn(4, 5, 0, 3)):
        value, grad = value_and_grad(DarkRank(mode=mode), few, torch.randn(few.shape))
        assert value == 0 and not grad.any()


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("whose", ["student", "teacher", "both"])
def test_duplicates_and_zero_embeddings_stay_finite(mode, beta, whose):
    def awkward():
        rows = torch.randn(6, 4)
        rows[1], rows[2], rows[4] = rows[0], rows[0], 0
        rows[5] = 1e-30
        return rows

    student = awkward() if whose != "teacher" else torch.randn(6, 4)
    teacher = awkward() if whose != "student" else torch.randn(6, 4)
    value, grad = value_and_grad(DarkRank(beta=beta, mode=mode), student, teacher)
    assert math.isfinite(value) and grad.isfinite().all() and grad.abs().max() < 1e3


def test_a_duplicate_does_not_push_the_query_into_its_own_list():
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    lists = DarkRank(candidates="all")._lists(teacher, torch.arange(4))
    assert lists.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_a_list_of_far_candidates_does_not_underflow():
    # Opposite vectors: score -3 * 2^3 = -24 each; six of them after one at distance 0 that the teacher puts last.
    student = torch.tensor([[1.0, 0.0]] * 2 + [[-1.0, 0.0]] * 6)
    angles = torch.tensor([0.0, 3.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    teacher = torch.stack([angles.cos(), angles.sin()], 1)
    loss = DarkRank(candidates="all", queries="spaced", query_count=1)
    expected = sum(math.log(n * math.exp(-24) + 1) + 24 for n in range(1, 7))
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-6) and expected > 140


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_many_queries_are_taken_in_parts_with_the_same_value_and_gradient(monkeypatch, mode):
    student, teacher = torch.randn(11, 5), torch.randn(11, 5)
    value, grad = value_and_grad(DarkRank(mode=mode), student, teacher)
    monkeypatch.setattr(arithmetic, "VALUES_AT_ONCE", 2 * 4 * 5)  # two queries
    again, grad_again = value_and_grad(DarkRank(mode=mode), student, teacher)
    assert again == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(grad_again, grad)


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_maps_count_as_the_average_of_each_images_valid_cells(mode):
    student, teacher = torch.randn(5, 6, 4, 3), torch.randn(5, 2, 4, 3)
    loss = DarkRank(mode=mode)
    torch.testing.assert_close(loss(student, teacher), loss(student.mean((2, 3)), teacher.mean((2, 3))))
    valid = torch.zeros(5, 1, 4, 3, dtype=torch.bool)
    valid[:, :, :2, :2] = True
    inside = loss(student[..., :2, :2].mean((2, 3)), teacher[..., :2, :2].mean((2, 3)))
    torch.testing.assert_close(loss(student, teacher, valid), inside)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 0.0}, "above zero"),
        ({"beta": -1.0}, "above zero"),
        ({"mode": "medium"}, "medium"),
        ({"candidates": "some"}, "some"),
        ({"queries": "second_half"}, "second_half"),
        ({"list_length": 1}, "list_length of 2 or more"),
        ({"query_count": 0}, "query_count of 1 or more"),
        ({"mode": "soft", "list_length": 6}, "at most 5"),
        ({"mode": "soft", "candidates": "all"}, "every ordering"),
    ],
)
def test_options_that_make_no_sense_are_refused_when_built(options, words):
    with pytest.raises(ValueError, match=words):
        DarkRank(**options)
