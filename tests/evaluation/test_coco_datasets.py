"""COCO files of any categories, evaluated by either library: detectron2's numbers, and what is empty."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from pets import found
from PIL import Image

from det_distill.data import register_coco
from det_distill.evaluation import DetectionEvaluator


@pytest.fixture(params=["hotcoco", "pycocotools"])
def library(request, monkeypatch):
    pytest.importorskip(request.param)
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "hotcoco", None)
    return request.param


@pytest.fixture
def coco_files(tmp_path: Path) -> tuple[Path, Path]:
    """Eight images with random objects, crowds, areas smaller than their boxes, and category ids 3 and 7.

    Two more images have no objects, and the category 90 has none.
    """
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(10, 20):
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 200, "height": 150})
        Image.new("RGB", (200, 150)).save(tmp_path / f"{number}.jpg")
        for _ in range(generator.integers(1, 6) if number < 18 else 0):
            box = [*generator.integers(0, 90, 2).tolist(), *generator.integers(8, 60, 2).tolist()]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(generator.choice([3, 7])),
                    "bbox": box,
                    "area": box[2] * box[3] * float(generator.uniform(0.3, 1)),
                    "iscrowd": int(generator.random() < 0.15),
                }
            )
    categories = [{"id": 7, "name": "dog"}, {"id": 90, "name": "ant"}, {"id": 3, "name": "cat"}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, tmp_path


@pytest.mark.parametrize("outline", [[[1, 2]], [[]], [[1, 2, 3, 4, 5]]])
def test_a_box_counts_whatever_its_polygon_is(coco_files, outline, library, caplog):
    path, images = coco_files
    whole = json.loads(path.read_text())
    plain = [entry for entry in whole["annotations"] if not entry["iscrowd"]]
    plain[3]["segmentation"] = outline
    spoilt = path.with_name("spoilt.json")
    spoilt.write_text(json.dumps(whole))
    register_coco("whole", *coco_files)
    register_coco("spoilt", spoilt, images)
    register_like_a_built_in("built_in", spoilt, images)
    results = []
    for name in ("whole", "spoilt", "built_in"):
        evaluator = DetectionEvaluator(name)
        process_near_misses([evaluator], "whole")
        results.append(evaluator.evaluate())
    np.testing.assert_equal(results[1], results[0])
    np.testing.assert_equal(results[2], results[0])
    in_training = sum(len(record["annotations"]) for record in DatasetCatalog.get("spoilt"))
    assert in_training == len(whole["annotations"]) - 1


def process_near_misses(evaluators, name):
    generator = np.random.default_rng(1)
    for record in DatasetCatalog.get(name):
        boxes, classes = [], []
        for entry in record["annotations"] * 2:
            x, y, width, height = entry["bbox"]
            boxes.append(np.array([x, y, x + width, y + height]) + generator.normal(0, 3, 4))
            classes.append(entry["category_id"] if generator.random() < 0.9 else 0)
        outputs = found(np.array(boxes), generator.random(len(boxes)), classes)
        for evaluator in evaluators:
            evaluator.process([record], outputs)


def register_like_a_built_in(name, json_file, image_root):
    register_coco_instances(name, {}, str(json_file), str(image_root))


@pytest.mark.parametrize("register", [register_coco, register_like_a_built_in])
def test_a_coco_file_gives_detectron2s_numbers(coco_files, tmp_path, register, library):
    register("ours", *coco_files)
    DatasetCatalog.get("ours")
    evaluators = [
        DetectionEvaluator("ours", output_dir=tmp_path / "ours"),
        COCOEvaluator("ours", distributed=False, output_dir=str(tmp_path / "theirs"), use_fast_impl=False),
    ]
    evaluators[1].reset()
    process_near_misses(evaluators, "ours")
    ours, theirs = (evaluator.evaluate()["bbox"] for evaluator in evaluators)
    assert 20 < ours["AP"] < 90
    for key, expected in theirs.items():
        assert ours[key] == pytest.approx(expected, abs=1e-9, nan_ok=True), key
    rows = [
        json.loads((tmp_path / side / "coco_instances_results.json").read_text())
        for side in ("ours", "theirs")
    ]
    assert [(row["image_id"], row["category_id"]) for row in rows[0]] == [
        (row["image_id"], row["category_id"]) for row in rows[1]
    ]
    np.testing.assert_allclose([row["bbox"] for row in rows[0]], [row["bbox"] for row in rows[1]], atol=1e-4)


def test_images_without_objects_stay_in_the_evaluation(coco_files, library):
    register_coco("ours", *coco_files)
    precisions = []
    for score in (0.0, 1.0):  # the surest or the least sure of all
        evaluator = DetectionEvaluator("ours")
        assert len(evaluator._truth.sizes) == 10
        for record in DatasetCatalog.get("ours"):
            entries = record["annotations"]
            boxes = [np.add(e["bbox"], [0, 0, *e["bbox"][:2]]) for e in entries] or [[0, 0, 9, 9]]
            classes = [e["category_id"] for e in entries] or [0]
            evaluator.process(
                [record], found(np.array(boxes), [0.5 if entries else score] * len(boxes), classes)
            )
        precisions.append(evaluator.evaluate()["bbox"]["AP"])
    assert precisions[0] == pytest.approx(100) and precisions[1] < 99


def test_no_detections_give_zero_and_a_category_without_objects_nan(coco_files, library):
    register_coco("ours", *coco_files)
    results = DetectionEvaluator("ours").evaluate()["bbox"]
    assert results["AP"] == results["AP50"] == results["AP-cat"] == results["AP-dog"] == 0
    assert math.isnan(results["AP-ant"])


def test_the_log_says_which_library_computed_the_numbers(coco_files, library, caplog):
    register_coco("ours", *coco_files)
    caplog.set_level("INFO", "det_distill")
    DetectionEvaluator("ours").evaluate()
    assert f"COCO rules by {library}." in caplog.text
