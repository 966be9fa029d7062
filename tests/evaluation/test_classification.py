"""Accuracy and cross entropy of a classifier, counted by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from det_distill.evaluation.classification import ClassificationEvaluator, ranks


def evaluate(logits, labels, ids=None, batch=2):
    """The results for rows of logits, fed in batches."""
    evaluator = ClassificationEvaluator()
    for start in range(0, len(labels), batch):
        rows = range(start, min(start + batch, len(labels)))
        evaluator.process(
            [{"label": labels[i], "image_id": i if ids is None else ids[i]} for i in rows],
            [{"logits": torch.tensor(logits[i])} for i in rows],
        )
    return evaluator.evaluate()


def test_three_images_of_which_two_are_right():
    logits = [[2.0, 1.0, 0.0], [0.0, 0.0, 3.0], [5.0, 4.0, 0.0]]
    results = evaluate(logits, [0, 2, 1])
    assert list(results) == ["classification"] and set(results["classification"]) == {"top1", "nll"}
    assert results["classification"]["top1"] == pytest.approx(200 / 3)
    by_hand = [
        math.log(1 + math.exp(-1) + math.exp(-2)),
        math.log(1 + 2 * math.exp(-3)),
        math.log(math.exp(1) + 1 + math.exp(-4)),
    ]
    assert results["classification"]["nll"] == pytest.approx(sum(by_hand) / 3, rel=1e-6)


def test_top5_counts_the_fifth_and_not_the_sixth():
    logits = [[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]] * 4
    results = evaluate(logits, [0, 4, 5, 1])["classification"]
    assert (results["top1"], results["top5"]) == (25.0, 75.0)


def test_top5_is_left_out_where_everything_would_be_among_five():
    assert "top5" not in evaluate([[0.0] * 5], [0])["classification"]


def test_ranks_are_places_in_a_stable_descending_sort():
    torch.manual_seed(0)
    logits, labels = torch.randint(0, 4, (200, 7)).float(), torch.randint(0, 7, (200,))
    order = logits.sort(dim=1, descending=True, stable=True).indices
    expected = [row.tolist().index(label) for row, label in zip(order, labels.tolist(), strict=True)]
    assert ranks(logits, labels).tolist() == expected


def test_a_network_that_always_says_the_same_is_not_right_about_everything():
    results = evaluate([[0.0] * 10] * 10, list(range(10)))["classification"]
    assert (results["top1"], results["top5"]) == (10.0, 50.0)


def test_a_logit_that_is_not_finite_is_wrong():
    nan, inf = float("nan"), float("inf")
    results = evaluate([[nan, nan], [inf, 0.0], [1.0, 0.0]], [0, 0, 0])["classification"]
    assert results["top1"] == pytest.approx(100 / 3) and math.isnan(results["nll"])


def test_an_image_that_comes_twice_counts_once():
    results = evaluate([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0, 0, 0], ids=["a", "b", "b"])
    assert results["classification"]["top1"] == 100.0


def test_the_images_of_all_processes_count(monkeypatch):
    def other(mine, dst):
        return [mine, ({"x": (1, 0.5), "y": (7, 2.5)}, 10)]

    monkeypatch.setattr("detectron2.utils.comm.gather", other)
    logits = [[1.0] + [0.0] * 9]
    results = evaluate(logits, [0])["classification"]
    own = float(F.cross_entropy(torch.tensor(logits), torch.tensor([0])))
    assert (results["top1"], results["top5"]) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
    assert results["nll"] == pytest.approx((own + 3.0) / 3)


def test_nothing_was_seen_after_a_reset():
    evaluator = ClassificationEvaluator()
    evaluator.process([{"label": 0, "image_id": 1}], [{"logits": torch.zeros(2)}])
    evaluator.reset()
    assert evaluator.evaluate() == {}
