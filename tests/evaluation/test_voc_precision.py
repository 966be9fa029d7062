"""VOC average precision: worked out by hand, by a slow loop, and by detectron2's own code."""

from dataclasses import replace

import numpy as np
import pytest
from box_columns import detections, objects, random_scene
from detectron2.evaluation import pascal_voc_evaluation as upstream

from det_distill.evaluation import voc, voc_average_precision
from det_distill.evaluation.overlaps import best_objects
from det_distill.evaluation.voc import OVERLAPS

A, B = (0, 0, 10, 10), (50, 50, 70, 70)


def average(found, truth, classes=1, **options):
    result = voc_average_precision(found, truth, classes, **options)
    return result.area[0], result.eleven_point[0]


def test_right_wrong_right_by_hand():
    # Two objects. Precision after each detection: 1, 1/2, 2/3; recall: 1/2, 1/2, 1; envelope 1, 2/3, 2/3.
    found = detections((0, 0, 0.9, A), (2, 0, 0.8, A), (1, 0, 0.7, B))
    area, eleven = average(found, objects((0, 0, A), (1, 0, B)))
    assert area == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    # Recall 0, 0.1, ..., 0.5 (six points) at precision 1, five points at 2/3.
    assert eleven == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_a_second_detection_of_an_object_is_wrong():
    # right, wrong (duplicate), right: as above.
    found = detections((0, 0, 0.9, A), (0, 0, 0.8, A), (1, 0, 0.7, B))
    assert average(found, objects((0, 0, A), (1, 0, B)))[0] == pytest.approx(5 / 6)


def test_a_detection_takes_its_best_object_even_if_that_is_taken():
    # Both detections overlap A most, so the second is a duplicate although it also overlaps the other by 0.6.
    other = (0, 4, 10, 14)
    found = detections((0, 0, 0.9, A), (0, 0, 0.8, (0, 1, 10, 11)))
    assert average(found, objects((0, 0, A), (0, 0, other)))[0] == pytest.approx(1 / 2)


def test_of_equally_overlapped_objects_the_first_is_taken():
    # The first of two equal objects is difficult: the detection is ignored and nothing is found.
    truth = objects((0, 0, A, {"difficult": 1}), (0, 0, A))
    assert average(detections((0, 0, 0.9, A)), truth)[0] == 0


@pytest.mark.parametrize(("width", "value"), [(20, 0.0), (19, 1.0)])
def test_an_overlap_of_exactly_one_half_is_not_enough(width, value):
    # 10x10 inside width x 10: overlap 10 / width.
    assert average(detections((0, 0, 0.9, (0, 0, width, 10))), objects((0, 0, A)))[0] == value


def test_the_threshold_can_be_chosen():
    found, truth = detections((0, 0, 0.9, (0, 0, 20, 10))), objects((0, 0, A))
    assert average(found, truth, iou=0.49)[0] == 1


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_ignored_objects_count_neither_as_objects_nor_for_their_detections(flag):
    truth = objects((0, 0, A, {flag: 1}), (0, 0, B))
    found = detections((0, 0, 0.9, A), (0, 0, 0.8, A), (0, 0, 0.7, B))
    assert average(found, truth) == (1, 1)


def test_difficult_objects_count_on_request_and_crowds_do_not():
    truth = objects((0, 0, A, {"difficult": 1}), (0, 0, B, {"crowd": 1}), (1, 0, A))
    found = detections((0, 0, 0.9, A), (0, 0, 0.8, A), (0, 0, 0.7, B))
    # Ignored: nothing counts and nothing is found. Counted: right, wrong (duplicate), ignored; one of two objects.
    assert average(found, truth)[0] == 0
    assert average(found, truth, count_difficult=True)[0] == pytest.approx(1 / 2)


def test_several_overlaps_at_once_give_what_each_gives_alone_and_pairs_are_compared_once(monkeypatch):
    found, truth = random_scene(3, images=30)
    calls = []
    monkeypatch.setattr(voc, "best_objects", lambda *sides: calls.append(1) or best_objects(*sides))
    together = voc_average_precision(found, truth, 4, iou=OVERLAPS)
    assert calls == [1] and together.area.shape == together.eleven_point.shape == (10, 4)
    for row, iou in enumerate(OVERLAPS):
        alone = voc_average_precision(found, truth, 4, iou=iou)
        np.testing.assert_array_equal(together.area[row], alone.area)
        np.testing.assert_array_equal(together.eleven_point[row], alone.eleven_point)
    assert together.area[0, 0] > together.area[5, 0] > together.area[9, 0]


def test_a_class_with_only_ignored_objects_has_no_precision():
    result = voc_average_precision(detections((0, 0, 0.9, A)), objects((0, 0, A, {"difficult": 1})), 2)
    assert np.isnan(result.area).all()
    assert np.isnan(result.eleven_point).all()


def test_no_detections_give_zero_and_no_objects_give_nan():
    result = voc_average_precision(detections(), objects((0, 1, A)), 2)
    np.testing.assert_array_equal(result.area, [np.nan, 0])
    assert np.isnan(voc_average_precision(detections((0, 0, 0.9, A)), objects(), 1).area).all()


def test_classes_and_images_do_not_mix():
    truth = objects((0, 0, A), (1, 1, A))
    found = detections((0, 1, 0.9, A), (1, 0, 0.9, A))
    np.testing.assert_array_equal(voc_average_precision(found, truth, 2).area, [0, 0])


def test_equal_scores_keep_their_order():
    right, wrong = (0, 0, 0.5, A), (1, 0, 0.5, A)
    assert average(detections(right, wrong), objects((0, 0, A)))[0] == 1
    assert average(detections(wrong, right), objects((0, 0, A)))[0] == 1 / 2


def pixel_overlap(first, second):
    """The devkit's: corners are whole pixels that belong to the box."""
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    common = max(width, 0) * max(height, 0)
    area = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second))
    return common / (area - common)


def slow_flags(found, truth, category, iou):
    """One devkit step after the other: the right/wrong flags of the detections that count, by score."""
    taken, flags = set(), []
    rows = [row for row in range(len(found)) if found.category[row] == category]
    for row in sorted(rows, key=lambda row: -found.score[row]):
        best, best_overlap = None, -1.0
        for candidate in range(len(truth.image)):
            if (truth.image[candidate], truth.category[candidate]) == (found.image[row], category):
                shift = np.array([1, 1, 0, 0])
                overlap = pixel_overlap(found.box[row] + shift, truth.box[candidate] + shift)
                if overlap > best_overlap:
                    best, best_overlap = candidate, overlap
        if best_overlap <= iou:
            flags.append(False)
        elif not truth.difficult[best] and not truth.crowd[best]:
            flags.append(best not in taken)
            taken.add(best)
    return flags


def slow_precision(flags, count):
    points = [(sum(flags[:n]) / count, sum(flags[:n]) / n) for n in range(1, len(flags) + 1)]

    def best(recall):
        return max((precision for reached, precision in points if reached >= recall), default=0.0)

    area = sum(best((found + 1) / count) for found in range(count)) / count
    return area, sum(best(recall) for recall in np.arange(0, 1.1, 0.1)) / 11


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iou", [0.5, 0.75])
def test_it_equals_a_slow_loop_with_the_devkits_pixel_counting(seed, iou):
    found, truth = random_scene(seed)
    result = voc_average_precision(found, truth, 4, iou=iou)
    for category in range(4):
        count = int(np.sum((truth.category == category) & ~truth.difficult & ~truth.crowd))
        if count == 0:
            assert np.isnan(result.area[category])
            continue
        area, eleven = slow_precision(slow_flags(found, truth, category, iou), count)
        assert result.area[category] == pytest.approx(area, abs=1e-12)
        assert result.eleven_point[category] == pytest.approx(eleven, abs=1e-12)


def write_for_upstream(folder, found, truth):
    """The files that `voc_eval` reads; its boxes have one digit, its scores three: ours have no more."""
    images = len(truth.sizes)
    (folder / "list.txt").write_text("\n".join(map(str, range(images))))
    for image in range(images):
        entries = ""
        for row in np.flatnonzero(truth.image == image):
            sides = zip(("xmin", "ymin", "xmax", "ymax"), truth.box[row] + [1, 1, 0, 0], strict=True)
            box = "".join(f"<{side}>{int(value)}</{side}>" for side, value in sides)
            entries += (
                f"<object><name>{truth.category[row]}</name><pose/><truncated>0</truncated>"
                f"<difficult>{int(truth.difficult[row])}</difficult><bndbox>{box}</bndbox></object>"
            )
        (folder / f"{image}.xml").write_text(f"<annotation>{entries}</annotation>")
    for category in range(4):
        lines = [
            " ".join(
                map(str, (found.image[row], f"{found.score[row]:.3f}", *(found.box[row] + [1, 1, 0, 0])))
            )
            for row in np.flatnonzero(found.category == category)
        ]
        (folder / f"found_{category}.txt").write_text("\n".join(lines))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("eleven_point", [True, False])
def test_it_equals_detectron2s_voc_eval(tmp_path, seed, eleven_point):
    found, truth = random_scene(seed)
    truth = replace(truth, crowd=np.zeros_like(truth.crowd))
    # voc_eval does not sort stably: no ties here.
    found = replace(found, score=np.random.default_rng(seed).permutation(len(found)) / 1000)
    write_for_upstream(tmp_path, found, truth)
    result = voc_average_precision(found, truth, 4)
    for category in np.unique(truth.category[~truth.difficult]):
        _, _, expected = upstream.voc_eval(
            str(tmp_path / "found_{}.txt"),
            str(tmp_path / "{}.xml"),
            str(tmp_path / "list.txt"),
            str(category),
            use_07_metric=eleven_point,
        )
        ours = result.eleven_point if eleven_point else result.area
        assert ours[category] == pytest.approx(expected, abs=1e-12)
