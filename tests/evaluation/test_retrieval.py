"""`retrieval` against values by hand, a slow loop and another library; `RetrievalEvaluator` around it."""

import math

import pytest
import torch
from detectron2.utils import comm

from det_distill.evaluation.retrieval import RetrievalEvaluator, retrieval


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def on_a_circle(*degrees):
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def slow(queries, labels, gallery, gallery_labels, same):
    """(recall at 1, at 5, mean average precision), one query and one image at a time."""
    firsts, precisions = [], []
    for q in range(len(queries)):
        rest = [i for i in range(len(gallery)) if not (same and i == q)]
        cosine = {i: torch.cosine_similarity(queries[q], gallery[i], dim=0).item() for i in rest}
        ranked = sorted(rest, key=lambda i: -cosine[i])
        places = [p for p, i in enumerate(ranked, 1) if gallery_labels[i] == labels[q]]
        if places:
            firsts.append(places[0])
            precisions.append(sum(n / p for n, p in enumerate(places, 1)) / len(places))
    count = len(firsts)
    return sum(f <= 1 for f in firsts) / count, sum(f <= 5 for f in firsts) / count, sum(precisions) / count


def test_places_by_hand():
    # From 0 degrees: 10 (other), 31 (own), 50 (other), 95 (own): places 2 and 4, precision (1/2 + 2/4) / 2.
    embeddings, labels = on_a_circle(0.0, 10.0, 31.0, 50.0, 95.0), torch.tensor([0, 1, 0, 1, 0])
    found = retrieval(embeddings * torch.tensor([[1.0], [2.0], [0.1], [5.0], [9.0]]), labels)
    assert found.first[0] == 2 and found.precision[0] == 0.5
    assert found.rows.tolist() == [0, 1, 2, 3, 4]
    # From 10: 0, 31, 50. From 31: 50, 10, 0. From 50: 31, 10. From 95: 50, 31.
    assert found.first.tolist() == [2, 3, 3, 2, 2]
    assert found.recall(1) == 0 and found.recall(2) == 0.6 and found.recall(3) == 1


@pytest.mark.parametrize("block", [1, 7, 256])
def test_every_image_against_all_others_is_what_a_slow_loop_finds(block):
    embeddings, labels = torch.randn(60, 8).double(), torch.randint(0, 9, (60,))
    labels[0] = 77  # nothing to find
    found = retrieval(embeddings, labels, block=block)
    expected = slow(embeddings, labels, embeddings, labels, same=True)
    assert (found.recall(1), found.recall(5)) == pytest.approx(expected[:2])
    assert found.mean_average_precision() == pytest.approx(expected[2], rel=1e-9)
    assert 0 not in found.rows


@pytest.mark.parametrize("block", [4, 256])
def test_a_separate_gallery_is_what_a_slow_loop_finds(block):
    queries, gallery = torch.randn(20, 8).double(), torch.randn(50, 8).double()
    labels, its = torch.randint(0, 12, (20,)), torch.randint(0, 9, (50,))
    found = retrieval(queries, labels, gallery, its, block=block)
    expected = slow(queries, labels, gallery, its, same=False)
    assert (found.recall(1), found.recall(5)) == pytest.approx(expected[:2])
    assert found.mean_average_precision() == pytest.approx(expected[2], rel=1e-9)


def test_the_numbers_are_those_of_pytorch_metric_learning():
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    embeddings, labels = torch.randn(80, 6), torch.randint(0, 10, (80,))
    embeddings += torch.randn(10, 6)[labels]
    calculator = AccuracyCalculator(
        include=("precision_at_1", "mean_average_precision"),
        k=79,
        device=torch.device("cpu"),
        knn_func=CustomKNN(CosineSimilarity()),
    )
    theirs = calculator.get_accuracy(embeddings, labels)
    found = retrieval(embeddings, labels)
    assert found.recall(1) == pytest.approx(theirs["precision_at_1"])
    assert found.mean_average_precision() == pytest.approx(theirs["mean_average_precision"], rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_embeddings_that_say_nothing_find_nothing(value):
    found = retrieval(torch.full((6, 3), value), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert found.first.tolist() == [4] * 6  # behind the three of the other identity
    assert found.mean_average_precision() == pytest.approx((1 / 4 + 2 / 5) / 2)


def test_an_image_whose_embedding_is_not_finite_is_found_last():
    embeddings = on_a_circle(0.0, 5.0, 90.0, 180.0)
    embeddings[1] = float("nan")
    found = retrieval(embeddings, torch.tensor([0, 0, 1, 1]))
    assert found.first[0] == 3


def test_shapes_that_do_not_fit_are_named():
    for arguments in (
        (torch.zeros(3, 2), torch.zeros(2)),
        (torch.zeros(3), torch.zeros(3)),
        (torch.zeros(3, 2), torch.zeros(3), torch.zeros(4, 5), torch.zeros(4)),
    ):
        with pytest.raises(ValueError, match=r"\(Q, D\).*not \(3,"):
            retrieval(*arguments)
    with pytest.raises(ValueError, match="gallery needs its labels"):
        retrieval(torch.zeros(3, 2), torch.zeros(3), torch.zeros(3, 2))


def samples(labels, roles=None, start=0):
    return [
        {"image_id": start + i, "label": int(label), **({"role": roles[i]} if roles else {})}
        for i, label in enumerate(labels)
    ]


def outputs(embeddings):
    return [{"embedding": e} for e in embeddings]


def test_the_evaluator_gives_percent_of_all_batches():
    embeddings, labels = torch.randn(30, 4), torch.randint(0, 5, (30,))
    evaluator, inputs = RetrievalEvaluator((1, 2)), samples(labels)
    for part in (slice(20, 30), slice(0, 20)):
        evaluator.process(inputs[part], outputs(embeddings[part]))
    table = evaluator.evaluate()["retrieval"]
    found = retrieval(embeddings, labels)
    assert list(table) == ["R1", "R2", "mAP", "queries"] and table["queries"] == len(found.rows)
    assert table["R1"] == pytest.approx(100 * found.recall(1))
    assert table["mAP"] == pytest.approx(100 * found.mean_average_precision())
    evaluator.reset()
    assert evaluator.evaluate() == {}


def test_the_processes_of_a_distributed_run_are_gathered_and_an_image_of_two_counts_once(monkeypatch):
    embeddings, labels = torch.randn(21, 4), torch.randint(0, 4, (21,))
    inputs = samples(labels)
    alone = RetrievalEvaluator()
    alone.process(inputs, outputs(embeddings))
    expected = alone.evaluate()
    parts = [RetrievalEvaluator() for _ in range(2)]
    for evaluator, part in zip(parts, (slice(0, 11), slice(10, 21)), strict=True):
        evaluator.process(inputs[part], outputs(embeddings[part]))
    monkeypatch.setattr(comm, "gather", lambda seen, dst: [p._seen for p in parts])
    assert parts[0].evaluate() == expected
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert parts[1].evaluate() == {}


def test_roles_part_queries_and_gallery():
    embeddings, labels = torch.randn(30, 4), torch.randint(0, 5, (30,))
    roles = ["query"] * 10 + ["gallery"] * 20
    evaluator = RetrievalEvaluator((1,))
    evaluator.process(samples(labels, roles), outputs(embeddings))
    found = retrieval(embeddings[:10], labels[:10], embeddings[10:], labels[10:])
    assert evaluator.evaluate()["retrieval"]["mAP"] == pytest.approx(100 * found.mean_average_precision())
    evaluator.process(samples([0], start=99), outputs(embeddings[:1]))
    with pytest.raises(ValueError, match="1 of 31 images have no 'role'"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match="role 'probe'"):
        evaluator.process(samples([0], ["probe"]), outputs(embeddings[:1]))


@pytest.mark.parametrize("roles", [None, ["query"] * 3, ["query", "gallery", "gallery"]])
def test_without_anything_to_find_the_numbers_are_nan(roles):
    evaluator = RetrievalEvaluator((1,))
    evaluator.process(samples([0, 1, 2], roles), outputs(torch.randn(3, 4)))
    table = evaluator.evaluate()["retrieval"]
    assert math.isnan(table["R1"]) and math.isnan(table["mAP"]) and table["queries"] == 0


def test_half_precision_embeddings_are_compared_in_float32():
    embeddings, labels = torch.randn(30, 4).half(), torch.randint(0, 5, (30,))
    half, full = retrieval(embeddings, labels), retrieval(embeddings.float(), labels)
    assert torch.equal(half.first, full.first)


def test_a_k_below_one_is_refused():
    with pytest.raises(ValueError, match="k of 1 or more"):
        RetrievalEvaluator((0, 5))
