"""Accuracy, calibration and cross entropy of a classifier, counted by hand."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog

from det_distill.evaluation.classification import ClassificationEvaluator, ranks


def evaluate(logits, labels, ids=None, batch=2, evaluator=None):
    """The results for rows of logits, fed in batches."""
    evaluator = evaluator or ClassificationEvaluator()
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
    assert list(results) == ["classification"]
    by_class = {"top1-0", "top1-1", "top1-2", "top1-mean"}
    assert set(results["classification"]) == {"top1", "nll", "ece", *by_class}
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
    assert results["top1"] == pytest.approx(100 / 3)
    assert math.isnan(results["nll"]) and math.isnan(results["ece"])


def test_an_image_that_comes_twice_counts_once():
    results = evaluate([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0, 0, 0], ids=["a", "b", "b"])
    assert results["classification"]["top1"] == 100.0


def test_the_images_of_all_processes_count(monkeypatch):
    elsewhere = ClassificationEvaluator()
    rows = torch.tensor([[0.0] * 9 + [5.0], [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
    samples = [{"label": 9, "image_id": "x"}, {"label": 7, "image_id": "y"}]
    elsewhere.process(samples, [{"logits": row} for row in rows])
    theirs = []
    monkeypatch.setattr("detectron2.utils.comm.gather", lambda mine, dst: theirs.append(mine) or [mine])
    elsewhere.evaluate()
    monkeypatch.setattr("detectron2.utils.comm.gather", lambda mine, dst: [mine, *theirs])
    logits = [[1.0] + [0.0] * 9]
    results = evaluate(logits, [1])["classification"]
    assert (results["top1"], results["top5"]) == (pytest.approx(100 / 3), pytest.approx(200 / 3))
    costs = [F.cross_entropy(torch.tensor([row]), torch.tensor([k])) for row, k in ((logits[0], 1),)]
    costs.append(F.cross_entropy(rows, torch.tensor([9, 7]), reduction="sum"))
    assert results["nll"] == pytest.approx(float(sum(costs)) / 3)


def test_nothing_was_seen_after_a_reset():
    evaluator = ClassificationEvaluator()
    evaluator.process([{"label": 0, "image_id": 1}], [{"logits": torch.zeros(2)}])
    evaluator.reset()
    assert evaluator.evaluate() == {}


@pytest.fixture
def animals():
    """The name of a set whose metadata have the names of three classes."""
    MetadataCatalog.get("animals").thing_classes = ["cat", "dog", "eel"]
    yield "animals"
    MetadataCatalog.pop("animals")


FOUR = [[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 3.0, 0.0]]
"""Taken for cat, cat, dog, dog; with the labels below a cat is right, a cat a dog, a dog right and a cat a dog."""
LABELS = [0, 1, 1, 0]


def test_classes_are_named_and_one_without_images_is_not_a_number(animals):
    results = evaluate(FOUR, [0, 0, 0, 1], evaluator=ClassificationEvaluator(animals))["classification"]
    assert results["top1-cat"] == pytest.approx(200 / 3) and results["top1-dog"] == 100.0
    assert math.isnan(results["top1-eel"])
    assert results["top1-mean"] == pytest.approx((200 / 3 + 100) / 2) and results["top1"] == 75.0


def test_the_file_has_the_results_and_what_each_class_was_taken_for(animals, tmp_path):
    evaluator = ClassificationEvaluator(animals, output_dir=tmp_path / "inference")
    results = evaluate(FOUR, LABELS, evaluator=evaluator)["classification"]
    file = tmp_path / "inference" / "classification_animals.json"
    content = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert (content["dataset"], content["images"]) == ("animals", 4)
    assert content["results"] == {k: results[k] for k in ("top1", "nll", "ece", "top1-mean")}
    assert content["classes"] == [
        {"class": "cat", "images": 2, "top1": 50.0, "taken_for": {"cat": 1, "dog": 1}},
        {"class": "dog", "images": 2, "top1": 50.0, "taken_for": {"cat": 1, "dog": 1}},
        {"class": "eel", "images": 0, "top1": None, "taken_for": {}},
    ]


def test_an_image_that_is_taken_for_nothing_counts_among_those_of_its_class(animals, tmp_path):
    evaluator = ClassificationEvaluator(animals, output_dir=tmp_path)
    rows = [[float("nan")] * 3, [0.0, 2.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0]]
    evaluate(rows, [0, 0, 0, 0], evaluator=evaluator)
    cat = json.loads((tmp_path / "classification_animals.json").read_text())["classes"][0]
    assert cat == {"class": "cat", "images": 4, "top1": 25.0, "taken_for": {"dog": 2, "cat": 1}}


def test_more_than_a_hundred_classes_are_in_the_file_alone(tmp_path):
    for classes, logged in ((100, 100), (101, 0)):
        evaluator = ClassificationEvaluator("unnamed", output_dir=tmp_path)
        results = evaluate(torch.eye(classes).tolist(), list(range(classes)), evaluator=evaluator)
        keys = {k for k in results["classification"] if k.startswith("top1-")} - {"top1-mean"}
        assert len(keys) == logged and results["classification"]["top1-mean"] == 100.0
        file = json.loads((tmp_path / "classification_unnamed.json").read_text())
        assert file["classes"][-1]["class"] == str(classes - 1) and len(file["classes"]) == classes


def test_two_classes_of_one_name_are_told_apart_by_their_numbers():
    MetadataCatalog.get("cranes").thing_classes = ["crane", "swan", "crane"]
    results = evaluate(FOUR, LABELS, evaluator=ClassificationEvaluator("cranes"))["classification"]
    MetadataCatalog.pop("cranes")
    assert {"top1-crane-0", "top1-swan", "top1-crane-2"} < set(results)


def test_a_slash_in_a_class_name_is_none_in_a_metrics_name(tmp_path):
    names = ["T-shirt/top", "a/b", "a-b"]
    MetadataCatalog.get("clothes").thing_classes = names
    evaluator = ClassificationEvaluator("clothes", output_dir=tmp_path)
    results = evaluate(FOUR, LABELS, evaluator=evaluator)["classification"]
    MetadataCatalog.pop("clothes")
    by_class = {k: v for k, v in results.items() if k.startswith("top1-") and k != "top1-mean"}
    assert by_class.keys() == {"top1-T-shirt-top", "top1-a-b-1", "top1-a-b-2"}
    assert by_class["top1-T-shirt-top"] == by_class["top1-a-b-1"] == 50.0
    content = json.loads((tmp_path / "classification_clothes.json").read_text())
    assert [row["class"] for row in content["classes"]] == names
    assert content["classes"][0]["taken_for"] == {"T-shirt/top": 1, "a/b": 1}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_half_precision_are_measured_like_their_values(dtype):
    rows = torch.tensor([[4.0, 1.0, 0.5], [0.25, 3.0, 2.0]])  # exact in either
    half, whole = ClassificationEvaluator(), ClassificationEvaluator()
    for evaluator, values in ((half, rows.to(dtype)), (whole, rows)):
        evaluator.process(
            [{"label": 0, "image_id": i} for i in range(2)], [{"logits": row} for row in values]
        )
    results = [evaluator.evaluate()["classification"] for evaluator in (half, whole)]
    assert all(results[0][k] == results[1][k] for k in ("top1", "nll", "ece"))


def test_the_calibration_error_is_of_the_confidence_in_the_predicted_class():
    rows = [[math.log(2.0), 0.0]] * 3  # probabilities 2/3 and 1/3
    assert evaluate(rows, [0, 0, 1])["classification"]["ece"] == pytest.approx(0.0, abs=1e-4)
    assert evaluate(rows, [1, 1, 1])["classification"]["ece"] == pytest.approx(200 / 3)
