"""The evaluator: every kind of dataset, both rules, several ranks, nothing found, nothing there."""

import json
import logging
import math

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.evaluation import print_csv_format
from pets import PETS, found, process_truth, voc_folder

from det_distill.config import get_cfg
from det_distill.data import register_voc
from det_distill.evaluation import DetectionEvaluator, detection
from det_distill.tasks import TASKS

KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-cat", "AP50-cat", "AP-dog", "AP50-dog"]
VOC_MEANS = ["AP", "AP50", "AP75", "AP-11point", "AP50-11point", "AP75-11point"]
VOC_KEYS = ["AP-{}", "AP50-{}", "AP75-{}", "AP50-11point-{}"]


def test_the_truth_as_detections_gives_100_by_both_rules(pets):
    evaluator = DetectionEvaluator(pets)
    process_truth(evaluator, pets)
    results = evaluator.evaluate()
    assert list(results["bbox"]) == KEYS
    per_class = [key.format(name) for name in ("cat", "dog") for key in VOC_KEYS]
    assert list(results["voc"]) == [*VOC_MEANS, *per_class]
    assert results["voc"] == pytest.approx(dict.fromkeys(results["voc"], 100))
    assert results["bbox"] == pytest.approx(dict.fromkeys(KEYS, 100))


def test_difficult_objects_count_by_coco_rules_and_not_by_voc_rules(pets):
    evaluator = DetectionEvaluator(pets)
    process_truth(evaluator, pets, keep=lambda entry: not entry["difficult"])
    results = evaluator.evaluate()
    # One of two dogs: 51 of the 101 recalls.
    assert results["bbox"]["AP50-dog"] == pytest.approx(100 * 51 / 101)
    assert results["voc"]["AP50-dog"] == 100


def test_difficult_objects_count_by_voc_rules_on_request(pets):
    evaluator = DetectionEvaluator(pets, count_difficult=True)
    process_truth(evaluator, pets, keep=lambda entry: not entry["difficult"])
    # One of two dogs: half of the area; six of eleven recalls.
    results = evaluator.evaluate()["voc"]
    assert (results["AP50-dog"], results["AP50-cat"]) == (50, 100)
    assert results["AP50-11point-dog"] == pytest.approx(100 * 6 / 11)


@pytest.mark.parametrize("counted", [False, True])
def test_the_config_says_whether_difficult_objects_count(pets, counted):
    cfg = get_cfg()
    assert cfg.TEST.COUNT_DIFFICULT is False
    cfg.TEST.COUNT_DIFFICULT, cfg.OUTPUT_DIR = counted, ""
    evaluator = TASKS["GeneralizedRCNN"].evaluator(cfg, pets)
    evaluator._output_dir = None
    process_truth(evaluator, pets, keep=lambda entry: not entry["difficult"])
    assert evaluator.evaluate()["voc"]["AP50-dog"] == (50 if counted else 100)


def test_each_overlap_has_its_own_precision_by_voc_rules(pets):
    evaluator = DetectionEvaluator(pets)
    # the cat of "a" is 30 x 40 pixels; found 30 x 29: an overlap of 0.725, above five of the ten thresholds
    evaluator.process([{"image_id": "a"}], found([[10, 10, 40, 39]], [0.9], [0]))
    evaluator.process([{"image_id": "b"}], found([[0, 0, 20, 20]], [0.9], [1]))
    results = evaluator.evaluate()["voc"]
    assert (results["AP50-cat"], results["AP75-cat"], results["AP-cat"]) == (50, 0, 25)
    assert (results["AP50"], results["AP75"], results["AP"]) == (75, 50, 62.5)
    eleven = [results[f"{key}-11point"] for key in ("AP50", "AP75", "AP")]
    assert eleven == pytest.approx([50 + 300 / 11, 50, 50 + 150 / 11])


def test_one_table_shows_both_rules_side_by_side(pets, caplog):
    evaluator = DetectionEvaluator(pets)
    process_truth(evaluator, pets, keep=lambda entry: not entry["difficult"])
    with caplog.at_level(logging.INFO, "det_distill"):
        evaluator.evaluate()
    (table,) = (record.message for record in caplog.records if "VOC rules" in record.message)
    *texts, heads, cats, dogs, mean = table.strip().splitlines()
    assert "pets: average precision in percent on 2 images" in texts[0]
    assert "VOC rules ignore objects marked difficult, COCO rules count them" in texts[1]
    by_voc = ["AP50", "11-point", "AP50", "AP75", "AP"]
    assert heads.split() == ["class", "objects", "difficult", "|", *by_voc, "|", "AP50", "AP75", "AP"]
    assert cats.split() == ["cat", "2", "0", "|", *["100.00"] * 4, "|", *["100.00"] * 3]
    assert dogs.split() == ["dog", "2", "1", "|", *["100.00"] * 4, "|", *["50.50"] * 3]
    assert mean.split() == ["mean", "4", "1", "|", *["100.00"] * 4, "|", *["75.25"] * 3]
    assert len({len(line) for line in (heads, cats, dogs, mean)}) == 1


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


def test_detections_on_images_without_objects_are_wrong(tmp_path):
    register_voc("pets", voc_folder(tmp_path / "pets", {"none": [], **PETS, "nothing": []}), "test")
    for score, expected in ((0.8, 100), (1.0, 2 / 3 * 100)):  # below and above the two cats that are found
        evaluator = DetectionEvaluator("pets")
        process_truth(evaluator, "pets")
        evaluator.process([{"image_id": "nothing"}], found([[0, 0, 9, 9]], [score], [0]))
        assert evaluator.evaluate()["voc"]["AP50-cat"] == pytest.approx(expected)


@pytest.mark.parametrize("ids", [(7, -1), ("x y/é", ""), ((1, "a"), None), (3, "3"), (2**70, 0.5)])
def test_image_ids_may_be_anything_that_hashes(ids, tmp_path):
    entry = {"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 0}
    dicts = [{"image_id": i, "width": 20, "height": 20, "annotations": [entry]} for i in ids]
    DatasetCatalog.register("any_ids", lambda: dicts)
    MetadataCatalog.get("any_ids").thing_classes = ["thing"]
    evaluator = DetectionEvaluator("any_ids", output_dir=tmp_path)
    process_truth(evaluator, "any_ids")
    results = evaluator.evaluate()
    assert results["voc"]["AP"] == results["bbox"]["AP"] == pytest.approx(100)
    assert len(json.loads((tmp_path / "coco_instances_results.json").read_text())) == 2


def test_two_images_of_the_same_id_are_an_error():
    dicts = [{"image_id": i, "width": 20, "height": 20, "annotations": []} for i in (1, 2, 1)]
    DatasetCatalog.register("twice", lambda: dicts)
    MetadataCatalog.get("twice").thing_classes = ["thing"]
    with pytest.raises(ValueError, match="'twice' has two images with the id 1"):
        DetectionEvaluator("twice")


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
