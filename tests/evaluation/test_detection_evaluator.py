"""The evaluator: every kind of dataset, both rules, several ranks, nothing found, nothing there."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances, register_pascal_voc
from detectron2.evaluation import COCOEvaluator, print_csv_format
from detectron2.structures import Boxes, Instances
from PIL import Image

from det_distill.data import register_coco, register_voc
from det_distill.evaluation import DetectionEvaluator, detection

KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP50-cat", "AP-dog", "AP50-dog"]


@pytest.fixture(autouse=True)
def forget_datasets():
    known = [set(catalog) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), known, strict=True):
        for name in set(catalog) - names:
            catalog.pop(name)


def voc_folder(root: Path, annotations: dict[str, list[tuple]]) -> Path:
    """Images of 200x150; objects (class, difficult, xmin, ymin, xmax, ymax) by image name."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("\n".join(annotations))
    for image, entries in annotations.items():
        text = "<annotation><size><width>200</width><height>150</height></size>"
        for name, difficult, *corners in entries:
            sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
            box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
            flags = f"<name>{name}</name><difficult>{difficult}</difficult>"
            text += f"<object>{flags}<bndbox>{box}</bndbox></object>"
        (root / f"Annotations/{image}.xml").write_text(text + "</annotation>")
        Image.new("RGB", (200, 150)).save(root / f"JPEGImages/{image}.jpg")
    return root


PETS = {
    "a": [("cat", 0, 11, 11, 40, 50), ("dog", 1, 61, 61, 100, 100)],
    "b": [("dog", 0, 1, 1, 20, 20), ("cat", 0, 101, 21, 200, 150)],
}


@pytest.fixture
def pets(tmp_path: Path) -> str:
    register_voc("pets", voc_folder(tmp_path / "pets", PETS), "test")
    return "pets"


def found(boxes, scores, classes):
    instances = Instances((150, 200))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return [{"instances": instances}]


def process_truth(evaluator, name, keep=lambda entry: True):
    """Give an evaluator the dataset's own boxes as detections."""
    for record in DatasetCatalog.get(name):
        entries = [entry for entry in record["annotations"] if keep(entry)]
        boxes = [entry["bbox"] for entry in entries]
        evaluator.process(
            [record], found(boxes, [0.9] * len(boxes), [entry["category_id"] for entry in entries])
        )


def test_the_truth_as_detections_gives_100_by_both_rules(pets):
    evaluator = DetectionEvaluator(pets)
    process_truth(evaluator, pets)
    results = evaluator.evaluate()
    assert list(results["bbox"]) == KEYS
    assert list(results["voc"]) == ["AP50", "AP50-11point", "AP50-cat", "AP50-dog"]
    assert results["voc"] == pytest.approx(dict.fromkeys(results["voc"], 100))
    assert results["bbox"] == pytest.approx(dict.fromkeys(KEYS, 100))


def test_difficult_objects_count_by_coco_rules_and_not_by_voc_rules(pets):
    evaluator = DetectionEvaluator(pets)
    process_truth(evaluator, pets, keep=lambda entry: not entry["difficult"])
    results = evaluator.evaluate()
    # One of two dogs: 51 of the 101 recalls.
    assert results["bbox"]["AP50-dog"] == pytest.approx(100 * 51 / 101)
    assert results["voc"]["AP50-dog"] == 100


def test_difficult_objects_skipped_in_training_are_still_ignored_in_evaluation(tmp_path):
    register_voc("pets", voc_folder(tmp_path / "pets", PETS), "test", difficult="skip")
    evaluator = DetectionEvaluator("pets")
    process_truth(evaluator, "pets")
    # Surer than all others, on the difficult dog: wrong if that dog were unknown.
    evaluator.process([{"image_id": "a"}], found([[60, 60, 100, 100], [10, 10, 40, 50]], [1.0, 0.9], [1, 0]))
    assert evaluator.evaluate()["voc"]["AP50"] == 100


def test_nothing_found_gives_zero_everywhere(pets):
    evaluator = DetectionEvaluator(pets)
    for outputs in ([], [[record] for record in DatasetCatalog.get(pets)]):
        for inputs in outputs:
            evaluator.process(inputs, found([], [], []))
        results = evaluator.evaluate()
        assert {value for result in results.values() for value in result.values()} <= {0.0}


def test_a_class_without_objects_is_nan_and_outside_the_mean(tmp_path):
    register_voc("pets", voc_folder(tmp_path / "pets", PETS), "test", classes=("cat", "cow", "dog"))
    evaluator = DetectionEvaluator("pets")
    process_truth(evaluator, "pets")
    results = evaluator.evaluate()
    assert (
        results["bbox"]["AP"]
        == results["voc"]["AP50"]
        == results["voc"]["AP50-11point"]
        == pytest.approx(100)
    )
    assert math.isnan(results["bbox"]["AP-cow"])
    assert math.isnan(results["voc"]["AP50-cow"])


def test_detectron2_prints_the_results(pets, caplog):
    evaluator = DetectionEvaluator(pets)
    process_truth(evaluator, pets)
    results = evaluator.evaluate()
    with caplog.at_level(logging.INFO):
        print_csv_format(results)
    assert "AP,AP50,AP75,APs,APm,APl" in caplog.text
    assert all(type(value) is float for result in results.values() for value in result.values())


def test_reset_forgets_and_an_image_given_twice_counts_once(pets):
    evaluator = DetectionEvaluator(pets)
    process_truth(evaluator, pets)
    process_truth(evaluator, pets)
    assert evaluator.evaluate()["voc"]["AP50"] == 100
    evaluator.reset()
    assert evaluator.evaluate()["voc"]["AP50"] == 0


def test_the_detections_of_all_ranks_are_gathered_and_only_the_first_rank_answers(pets, monkeypatch):
    parts = []
    for record in DatasetCatalog.get(pets):
        rank = DetectionEvaluator(pets)
        monkeypatch.setattr(detection.comm, "gather", lambda part, dst: parts.append(part) or [])
        monkeypatch.setattr(detection.comm, "is_main_process", lambda: False)
        boxes = [entry["bbox"] for entry in record["annotations"]]
        rank.process(
            [record], found(boxes, [0.9, 0.9], [entry["category_id"] for entry in record["annotations"]])
        )
        assert rank.evaluate() == {}
    monkeypatch.setattr(detection.comm, "gather", lambda part, dst: parts)
    monkeypatch.setattr(detection.comm, "is_main_process", lambda: True)
    assert DetectionEvaluator(pets).evaluate()["bbox"]["AP"] == 100


def test_numbers_that_are_not_finite_are_dropped_with_a_warning(pets, caplog):
    evaluator = DetectionEvaluator(pets)
    process_truth(evaluator, pets)
    boxes = [[10, 10, 40, 50], [60, 60, 100, 100], [0, 0, float("nan"), 9], [0, 0, 9, 9]]
    evaluator.process([{"image_id": "a"}], found(boxes, [0.9, 0.9, 1.0, float("inf")], [0, 1, 0, 0]))
    assert evaluator.evaluate()["bbox"]["AP"] == 100
    assert "2 detections with numbers not finite are dropped" in caplog.text


def test_an_image_of_another_dataset_is_an_error(pets):
    with pytest.raises(KeyError, match="'z' is not in the dataset 'pets'"):
        DetectionEvaluator(pets).process([{"image_id": "z"}], found([], [], []))


def test_a_built_in_voc_name_gets_its_difficult_flags_from_the_files(tmp_path):
    root = voc_folder(tmp_path / "VOC2007", PETS)
    register_pascal_voc("voc_like", str(root), "test", 2007, class_names=["cat", "dog"])
    MetadataCatalog.get("voc_like").evaluator_type = "pascal_voc"
    evaluator = DetectionEvaluator("voc_like")
    evaluator.process([{"image_id": "a"}], found([[10, 10, 40, 50]], [0.9], [0]))
    evaluator.process([{"image_id": "b"}], found([[0, 0, 20, 20], [100, 20, 200, 150]], [0.9, 0.9], [1, 0]))
    results = evaluator.evaluate()
    assert results["voc"]["AP50"] == 100
    assert results["bbox"]["AP50-dog"] == pytest.approx(100 * 51 / 101)


@pytest.fixture
def coco_files(tmp_path: Path) -> tuple[Path, Path]:
    """Eight images with random objects, crowds, areas smaller than their boxes, and category ids 3 and 7."""
    generator = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(10, 18):
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 200, "height": 150})
        Image.new("RGB", (200, 150)).save(tmp_path / f"{number}.jpg")
        for _ in range(generator.integers(1, 6)):
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
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path, tmp_path


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
def test_a_coco_file_gives_detectron2s_numbers(coco_files, tmp_path, register):
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
