"""The evaluator beside detectron2's PascalVOCDetectionEvaluator, on the digits that the latter writes down."""

import numpy as np
import pytest
from box_columns import random_scene
from detectron2.data.datasets import register_pascal_voc
from detectron2.evaluation import PascalVOCDetectionEvaluator
from pets import found, voc_folder

from det_distill.data import register_voc
from det_distill.evaluation import DetectionEvaluator

CLASSES = ["crate", "wind_mill", "Über-ding"]  # none of VOC's
SIZE = (200, 200)
YEARS = {2007: "-11point", 2012: ""}


@pytest.fixture
def stable(monkeypatch):
    """detectron2 leaves the order of equal scores to numpy, which is free in it; here it is the given order."""
    argsort = np.argsort
    monkeypatch.setattr(np, "argsort", lambda values, **_: argsort(values, kind="stable"))


def folder_of(path, truth):
    """A VOC folder with a scene's objects; image 12 has none."""
    annotations = {f"{image:02d}": [] for image in range(13)}
    columns = zip(truth.image, truth.category, truth.difficult, truth.box, strict=True)
    for image, category, difficult, box in columns:
        corners = np.add(box, [1, 1, 0, 0]).astype(int)
        annotations[f"{image:02d}"].append((CLASSES[category], int(difficult), *corners))
    return voc_folder(path, annotations, SIZE)


def outputs(scene, digits):
    """Per image, boxes near the objects with one digit after the point and scores with `digits`."""
    rng = np.random.default_rng(len(scene))
    known = scene.category < len(CLASSES)
    for image in range(13):
        rows = np.flatnonzero((scene.image == image) & known)
        boxes = scene.box[rows] + np.round(rng.uniform(0, 0.9, (len(rows), 4)), 1)
        yield f"{image:02d}", found(boxes, np.round(scene.score[rows], digits), scene.category[rows])


def both(path, truth, results, year):
    root = folder_of(path, truth)
    register_voc("ours", root, "test", CLASSES)
    register_pascal_voc("theirs", str(root), "test", year, class_names=CLASSES)
    evaluators = DetectionEvaluator("ours"), PascalVOCDetectionEvaluator("theirs")
    for evaluator in evaluators:
        evaluator.reset()
        for image, output in results:
            evaluator.process([{"image_id": image}], output)
    with np.errstate(invalid="ignore"):
        return evaluators[0].evaluate()["voc"], evaluators[1].evaluate()["bbox"]


@pytest.mark.parametrize("year", YEARS)
@pytest.mark.parametrize("digits", [3, 1], ids=["few ties", "many ties"])
@pytest.mark.parametrize("seed", range(3))
def test_ap_ap50_and_ap75_are_detectron2s(tmp_path, stable, seed, digits, year):
    scene, truth = random_scene(seed)
    ours, theirs = both(tmp_path / "voc", truth, list(outputs(scene, digits)), year)
    assert 10 < theirs["AP"] < theirs["AP50"] < 90
    for key, expected in theirs.items():
        assert ours[key + YEARS[year]] == pytest.approx(expected, abs=1e-9), key


@pytest.mark.parametrize("year", YEARS)
def test_nothing_found_is_zero_on_both_sides(tmp_path, year):
    _, truth = random_scene(0)
    ours, theirs = both(tmp_path / "voc", truth, [], year)
    assert set(theirs.values()) == set(ours.values()) == {0}


def test_a_class_without_objects_is_left_out_where_detectron2_has_no_number(tmp_path):
    scene, truth = random_scene(0)
    truth.category[:] = 0
    ours, theirs = both(tmp_path / "voc", truth, list(outputs(scene, 3)), 2012)
    assert np.isnan(theirs["AP50"]) and ours["AP50"] == ours["AP50-crate"] > 10
    assert np.isnan(ours["AP50-wind_mill"])
