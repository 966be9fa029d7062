"""COCO average precision: small cases by hand, and the same numbers from both libraries."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from box_columns import detections, objects, random_scene

from det_distill.evaluation import coco_average_precision

A, B = (0, 0, 10, 10), (50, 50, 90, 90)
BACKENDS = ["hotcoco", "pycocotools"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    pytest.importorskip(request.param)
    return request.param


def test_one_object_found_at_overlap_0_8_scores_seven_of_ten(backend):
    # Overlap 8 / 10; right at 0.50, 0.55, ..., 0.80: seven thresholds.
    found = detections((0, 0, 0.9, (0, 0, 10, 8)))
    precision = coco_average_precision(found, objects((0, 0, A)), 1, backend=backend)
    assert precision.average() == pytest.approx(0.7)
    assert precision.average(overlap=0) == pytest.approx(1)
    assert precision.average(overlap=5) == pytest.approx(1)


def test_half_of_the_objects_found_fills_51_of_101_recalls(backend):
    found = detections((0, 0, 0.9, A))
    precision = coco_average_precision(found, objects((0, 0, A), (1, 0, A)), 1, backend=backend)
    assert precision.average() == pytest.approx(51 / 101)


def test_areas_split_the_objects_and_the_annotated_area_counts(backend):
    truth = objects((0, 0, A), (0, 0, B, {"area": 100}), (1, 0, B))
    found = detections((0, 0, 0.9, A), (1, 0, 0.9, B))
    precision = coco_average_precision(found, truth, 1, backend=backend)
    assert precision.average(area="s") == pytest.approx(51 / 101)
    assert precision.average(area="m") == pytest.approx(1)
    assert math.isnan(precision.average(area="l"))


def test_difficult_objects_are_ordinary_ones(backend):
    truth = objects((0, 0, A, {"difficult": 1}), (1, 0, A))
    precision = coco_average_precision(detections((1, 0, 0.9, A)), truth, 1, backend=backend)
    assert precision.average() == pytest.approx(51 / 101)


def test_detections_inside_a_crowd_are_ignored(backend):
    truth = objects((0, 0, B, {"crowd": 1}), (0, 0, A))
    found = detections((0, 0, 0.9, (50, 50, 60, 60)), (0, 0, 0.8, (60, 60, 70, 70)), (0, 0, 0.7, A))
    assert coco_average_precision(found, truth, 1, backend=backend).average() == pytest.approx(1)


def test_a_class_without_objects_is_not_part_of_the_mean(backend):
    precision = coco_average_precision(detections((0, 0, 0.9, A)), objects((0, 0, A)), 2, backend=backend)
    assert precision.average() == pytest.approx(1)
    assert math.isnan(precision.average(category=1))


def test_no_detections_give_zero(backend):
    precision = coco_average_precision(detections(), objects((0, 0, A)), 1, backend=backend)
    assert precision.average() == 0


def test_no_objects_at_all_give_nan(backend):
    precision = coco_average_precision(detections((0, 0, 0.9, A)), objects(), 1, backend=backend)
    assert math.isnan(precision.average())


@pytest.mark.parametrize("seed", range(5))
def test_both_libraries_give_the_same_table(seed):
    pytest.importorskip("hotcoco")
    found, truth = random_scene(seed, images=20)
    tables = [coco_average_precision(found, truth, 4, backend=name).table for name in BACKENDS]
    assert tables[0].shape == (10, 101, 4, 4)
    np.testing.assert_allclose(*tables, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("found", "truth"),
    [
        (detections(), objects((0, 0, A), images=3)),
        (detections((2, 0, 0.9, A), (2, 1, 0.5, B)), objects((0, 0, A), images=3)),
        (detections((0, 0, 0.9, A), (1, 0, 0.8, A)), objects((0, 0, B, {"crowd": 1}), (1, 0, A))),
        (detections((0, 0, 0.5, A), (0, 0, 0.5, A), (0, 0, 0.5, B)), objects((0, 0, A), (0, 0, B))),
        (detections((0, 1, 0.9, A)), objects((0, 1, A, {"crowd": 1}))),
        (detections((0, 0, 0.9, (5, 5, 5, 9))), objects((0, 0, A))),
    ],
    ids=["nothing found", "images without objects", "crowds", "ties", "only a crowd", "a box without area"],
)
def test_both_libraries_give_the_same_table_in_rare_cases(found, truth):
    pytest.importorskip("hotcoco")
    tables = [coco_average_precision(found, truth, 2, backend=name).table for name in BACKENDS]
    np.testing.assert_allclose(*tables, rtol=0, atol=1e-9)


def test_more_than_a_hundred_detections_of_an_image_are_cut_to_the_best(backend):
    wrong = [(0, 0, 0.9, (100, 100, 110 + step, 120)) for step in range(100)]
    precision = coco_average_precision(
        detections(*wrong, (0, 0, 0.1, A)), objects((0, 0, A)), 1, backend=backend
    )
    assert precision.average() == 0


def test_without_hotcoco_pycocotools_does_the_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    found, truth = detections((0, 0, 0.9, A)), objects((0, 0, A))
    assert coco_average_precision(found, truth, 1).average() == pytest.approx(1)
    with pytest.raises(ImportError, match=r"hotcoco 1\.3 or newer is not installed"):
        coco_average_precision(found, truth, 1, backend="hotcoco")


def test_a_hotcoco_that_takes_no_columns_is_left_aside(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", SimpleNamespace(COCO=object))
    precision = coco_average_precision(detections((0, 0, 0.9, A)), objects((0, 0, A)), 1)
    assert precision.library == "pycocotools" and precision.average() == pytest.approx(1)


def test_without_any_library_a_sentence_says_what_to_install(monkeypatch):
    for name in ("hotcoco", "pycocotools.coco"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="needs hotcoco or pycocotools: pip install"):
        coco_average_precision(detections(), objects((0, 0, A)), 1)


def test_an_unknown_library_is_an_error():
    with pytest.raises(ValueError, match="'cocoapi' of COCO evaluation is unknown: hotcoco or pycocotools"):
        coco_average_precision(detections(), objects((0, 0, A)), 1, backend="cocoapi")
