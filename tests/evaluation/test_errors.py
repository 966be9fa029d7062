"""Kinds of errors: each by hand, what mending it gains, and the edges of the definitions."""

import numpy as np
import pytest
from box_columns import detections, objects, random_scene

from det_distill.evaluation import coco_average_precision
from det_distill.evaluation.errors import ERRORS, error_breakdown, overlaps, precision_curve

A, B = (0, 0, 10, 10), (50, 50, 60, 60)
HALF = (0, 0, 20, 10)  # overlaps A by exactly 0.5
LOOSE = (0, 0, 40, 10)  # overlaps A by 0.25
TENTH = (0, 0, 100, 10)  # overlaps A by exactly 0.1
FAR = (100, 100, 110, 110)


def kinds(found, truth, classes=2, **options):
    return list(error_breakdown(found, truth, classes, **options).kind)


@pytest.mark.parametrize(
    ("category", "box", "kind"),
    [
        (0, A, "right"),
        (0, HALF, "right"),
        (0, LOOSE, "localisation"),
        (0, TENTH, "localisation"),
        (0, FAR, "background"),
        (0, (0, 0, 101, 10), "background"),
        (1, A, "classification"),
        (1, HALF, "classification"),
        (1, LOOSE, "both"),
        (1, TENTH, "background"),
        (1, FAR, "background"),
    ],
)
def test_one_detection_beside_one_object_of_class_0_is(category, box, kind):
    assert kinds(detections((0, category, 0.9, box)), objects((0, 0, A))) == [kind]


def test_the_less_sure_of_two_detections_of_an_object_is_a_duplicate_whatever_comes_first():
    found = detections((0, 0, 0.3, A), (0, 0, 0.9, (0, 0, 10, 9)))
    result = error_breakdown(found, objects((0, 0, A)), 1)
    assert list(result.kind) == ["duplicate", "right"] and list(result.found) == [1]


def test_a_box_on_a_taken_object_takes_the_next_free_one_that_fits():
    """As COCO's matching does, and VOC's does not."""
    near = (0, 2, 10, 12)
    found = detections((0, 0, 0.9, A), (0, 0, 0.8, (0, 1, 10, 11)))
    assert kinds(found, objects((0, 0, A), (0, 0, near))) == ["right", "right"]


def test_a_detection_on_an_image_without_objects_is_background():
    assert kinds(detections((1, 0, 0.9, A)), objects((0, 0, A))) == ["background"]


def test_an_object_is_missed_only_if_no_box_is_about_it():
    truth = objects((0, 0, A), (0, 0, B), (1, 0, A), (2, 0, A))
    found = detections((0, 0, 0.9, LOOSE), (1, 1, 0.9, A), (2, 1, 0.9, LOOSE))
    result = error_breakdown(found, truth, 2)
    assert list(result.kind) == ["localisation", "classification", "both"]
    assert list(result.missed) == [False, True, False, True]
    assert result.counts == dict(
        classification=1, localisation=1, both=1, duplicate=0, background=0, missed=2
    )


def test_every_kind_mended_gains_what_was_worked_out_by_hand():
    """One class, one object an image; a duplicate and a background box above the right one."""
    truth = objects((0, 0, A), (1, 0, A))
    found = detections((2, 0, 0.9, A), (0, 0, 0.8, A), (0, 0, 0.7, A), (1, 0, 0.6, LOOSE))
    result = error_breakdown(found, truth, 1)
    assert list(result.kind) == ["background", "right", "duplicate", "localisation"]
    # Ranks: wrong, right, wrong, wrong. Recall 1/2 at precision 1/2: 51 of 101 recalls.
    assert result.precision == pytest.approx(51 / 101 / 2)
    # Without the first: recall 1/2 at precision 1.
    assert result.gains["background"] == pytest.approx(51 / 101 / 2)
    # Without the third nothing of the envelope changes.
    assert result.gains["duplicate"] == pytest.approx(0)
    # wrong, right, wrong, right: precision 1/2 at every recall.
    assert result.gains["localisation"] == pytest.approx(1 / 2 - 51 / 101 / 2)
    assert result.gains["classification"] == result.gains["both"] == result.gains["missed"] == 0


def test_a_mended_class_counts_for_the_class_of_the_object():
    truth = objects((0, 0, A), (1, 1, A))
    found = detections((0, 1, 0.9, A), (1, 1, 0.8, A))
    result = error_breakdown(found, truth, 2)
    # Class 0: nothing found; class 1: wrong, right. Mended: both perfect.
    assert result.precision == pytest.approx((0 + 1 / 2) / 2)
    assert result.gains["classification"] == pytest.approx(1 - 1 / 4)


def test_of_several_boxes_about_one_object_only_the_surest_is_made_right():
    truth = objects((0, 0, A), (1, 0, A))
    found = detections((0, 0, 0.5, LOOSE), (0, 0, 0.9, LOOSE), (1, 0, 0.7, A))
    result = error_breakdown(found, truth, 1)
    # wrong, right, wrong becomes right, right.
    assert result.precision == pytest.approx(51 / 101 / 2)
    assert result.gains["localisation"] == pytest.approx(1 - 51 / 101 / 2)


def test_boxes_about_an_object_that_is_found_are_taken_away():
    found = detections((0, 0, 0.9, LOOSE), (0, 0, 0.8, A))
    result = error_breakdown(found, objects((0, 0, A)), 1)
    assert result.precision == pytest.approx(1 / 2) and result.gains["localisation"] == pytest.approx(1 / 2)


def test_missed_objects_are_mended_by_not_counting_them():
    truth = objects((0, 0, A), (1, 0, A), (2, 1, A))
    result = error_breakdown(detections((0, 0, 0.9, A)), truth, 2)
    # Class 0 has 51 of 101 recalls, class 1 nothing; mended, class 0 is perfect and class 1 leaves the mean.
    assert result.counts["missed"] == 2
    assert result.precision == pytest.approx(51 / 101 / 2)
    assert result.gains["missed"] == pytest.approx(1 - 51 / 101 / 2)


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_objects_that_do_not_count_are_neither_missed_nor_errors(flag):
    truth = objects((0, 0, A, {flag: 1}), (1, 0, A))
    result = error_breakdown(detections((0, 0, 0.9, A)), truth, 1)
    assert list(result.kind) == ["ignored"] and list(result.missed) == [False, True]
    assert result.counts["background"] == 0


def test_a_box_within_a_crowd_is_ignored_although_the_overlap_is_small():
    truth = objects((0, 0, (0, 0, 100, 100), {"crowd": 1}))
    assert kinds(detections((0, 0, 0.9, A), (0, 1, 0.9, A)), truth) == ["ignored", "background"]


def test_difficult_objects_count_on_request():
    truth = objects((0, 0, A, {"difficult": 1}))
    assert kinds(detections((0, 0, 0.9, A)), truth, count_difficult=True) == ["right"]
    assert np.isnan(error_breakdown(detections((0, 0, 0.9, A)), truth, 1).precision)


def test_only_the_surest_boxes_of_an_image_are_looked_at():
    found = detections((0, 0, 0.2, FAR), (0, 0, 0.9, FAR), (1, 0, 0.1, FAR))
    assert kinds(found, objects((0, 0, A)), max_detections=1) == ["ignored", "background", "background"]


@pytest.mark.parametrize("found", [(), ((0, 0, 0.9, A),)])
@pytest.mark.parametrize("truth", [(), ((0, 0, A),)])
def test_nothing_found_and_nothing_there_are_no_trouble(found, truth):
    result = error_breakdown(detections(*found), objects(*truth), 1)
    assert np.isnan(result.precision) == (not truth)
    assert result.counts["missed"] == (bool(truth) and not found)
    assert result.counts["background"] == (bool(found) and not truth)


@pytest.mark.parametrize("seed", range(4))
def test_each_detection_is_of_one_kind_and_the_base_is_cocos_ap50(seed):
    found, truth = random_scene(seed)
    truth.crowd[:] = False
    truth.difficult[:] = False
    result = error_breakdown(found, truth, 4)
    assert result.precision == pytest.approx(coco_average_precision(found, truth, 4).average(overlap=0))
    assert set(result.kind) <= {*ERRORS, "right"} - {"missed"}
    assert sum(result.counts.values()) == (result.kind != "right").sum() + result.missed.sum()
    assert (result.kind == "right").sum() == (result.found >= 0).sum()
    taken = result.found[result.found >= 0]
    assert (
        len(set(taken)) == len(taken) and (found.category[taken] == truth.category[result.found >= 0]).all()
    )


def test_the_order_of_the_detections_does_not_matter():
    found, truth = random_scene(7)
    score = np.linspace(0, 1, len(found))
    turned = np.arange(len(found))[::-1]
    rows = [(found.image[i], found.category[i], score[i], found.box[i]) for i in range(len(found))]
    one = error_breakdown(detections(*rows), truth, 4)
    other = error_breakdown(detections(*(rows[i] for i in turned)), truth, 4)
    assert one.counts == other.counts and one.gains == pytest.approx(other.gains)
    assert list(one.kind[turned]) == list(other.kind)


@pytest.mark.parametrize(("high", "low"), [(0.1, 0.5), (0.5, 0.5), (1.5, 0.1), (0.5, -0.1)])
def test_limits_that_make_no_sense_are_refused(high, low):
    with pytest.raises(ValueError, match="background < foreground"):
        error_breakdown(detections(), objects(), 1, foreground=high, background=low)


def test_the_curve_holds_the_best_precision_at_a_recall_or_above():
    curve = precision_curve(np.array([True, False, True]), 4)
    assert curve[:26] == pytest.approx(1) and curve[26:51] == pytest.approx(2 / 3) and not curve[51:].any()
    assert not precision_curve(np.zeros(0, dtype=bool), 1).any()


def test_overlaps_of_all_pairs_and_of_empty_boxes():
    boxes = np.array([A, LOOSE, (5, 5, 5, 5)], dtype=float)
    assert overlaps(boxes, boxes[:1])[:, 0] == pytest.approx([1, 0.25, 0])
    assert overlaps(boxes, boxes[:1], of_first=True)[:, 0] == pytest.approx([1, 0.25, 0])
    assert overlaps(boxes[:1], boxes[1:2], of_first=True)[0, 0] == 1
