"""Sets of detections are compared as sets, and only what rounding can do is forgiven."""

import math

import pytest
import torch

from det_distill.export.graphs.matching import difference, disagreement

BOXES = [[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 60.0, 40.0], [5.0, 50.0, 25.0, 90.0]]


def found(boxes=BOXES, scores=(0.9, 0.6, 0.3), classes=(0, 1, 0)):
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "scores": torch.tensor(scores),
        "classes": torch.tensor(classes, dtype=torch.int64),
    }


def without(index):
    keep = [i for i in range(3) if i != index]
    return {name: value[keep] for name, value in found().items()}


def gap(a, b, **more):
    return difference(a, b, **{"tolerance": 1e-3, "threshold": 0.05, **more})


def test_the_order_does_not_count():
    turned = {name: value.flip(0) for name, value in found().items()}
    assert gap(found(), turned) == 0


def test_a_moved_corner_counts_as_a_part_of_the_boxs_larger_side():
    moved = found([BOXES[0], [20.0, 20.0, 60.02, 40.0], BOXES[2]])
    assert gap(found(), moved) == pytest.approx(0.02 / 40, rel=1e-3)


def test_a_score_counts_as_it_is():
    assert gap(found(), found(scores=(0.9, 0.6005, 0.3))) == pytest.approx(5e-4, rel=1e-2)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_lost_detection_is_an_infinite_difference_on_either_side(index):
    assert gap(found(), without(index)) == gap(without(index), found()) == math.inf


def test_another_class_is_another_detection():
    assert gap(found(), found(classes=(0, 0, 0))) == math.inf


def test_a_detection_at_the_threshold_may_be_missing():
    assert gap(found(), without(2), threshold=0.2995) == 0


def test_a_detection_that_ties_with_the_last_of_a_full_set_may_be_another():
    other = found([*BOXES[:2], [100.0, 0.0, 120.0, 20.0]])
    assert gap(found(), other, most=3) == 0
    assert gap(found(), other, most=4) == math.inf


def test_a_near_copy_may_have_taken_the_place():
    near = found([BOXES[0], [20.0, 20.0, 61.0, 40.0], BOXES[2]])
    assert gap(found(), near) == 0
    far = found([BOXES[0], [20.0, 20.0, 50.0, 40.0], BOXES[2]])
    assert gap(found(), far) == math.inf


def test_two_empty_sets_are_equal():
    none = found([], (), ())
    assert gap(none, none) == 0 and gap(found(), none) == math.inf


def test_logits_differ_by_a_part_of_the_largest():
    a, b = {"logits": torch.tensor([1.0, -4.0])}, {"logits": torch.tensor([1.0, -4.4])}
    assert gap(a, b) == pytest.approx(0.1)


def test_disagreement_is_the_share_of_scores_without_a_partner():
    assert disagreement(found(), found()) == 0
    assert disagreement(found(), without(0)) == pytest.approx(0.9 / (1.8 + 0.9))
    assert disagreement(found(), found([], (), ())) == pytest.approx(1)
    assert disagreement({"logits": torch.tensor([0.0, 0.0])}, {"logits": torch.tensor([0.0, 90.0])}) == 0.5
