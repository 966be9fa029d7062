"""Detections in a file come back as they were; what does not fit is told with its place."""

import json

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from pets import found

from det_distill.evaluation import DetectionEvaluator
from det_distill.evaluation.detection_file import FILE_NAME, read_detections, read_rows

GOOD = {"image_id": "a", "category_id": 0, "bbox": [1, 2, 3, 4], "score": 0.5}


def test_what_the_evaluator_writes_comes_back_and_gives_the_same_numbers(pets, tmp_path):
    evaluator = DetectionEvaluator(pets, output_dir=tmp_path)
    evaluator.process(
        [{"image_id": "b"}], found([[0.1, 0.7, 20.3, 19.9], [99, 18, 200, 149]], [0.3, 0.9], [1, 0])
    )
    evaluator.process([{"image_id": "a"}], found([[10.4, 11.2, 39.7, 52.1]], [0.123456], [0]))
    results = evaluator.evaluate()
    read = read_detections(tmp_path / FILE_NAME, pets)
    assert evaluator.results(read) == results
    assert read.image.tolist() == [0, 1, 1] and read.category.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(read.box[0], np.float32([10.4, 11.2, 39.7, 52.1]))
    np.testing.assert_array_equal(read.score, np.float32([0.123456, 0.3, 0.9]))


def test_images_come_in_the_order_of_the_dataset_and_their_detections_in_that_of_the_file(pets, tmp_path):
    rows = [
        {**GOOD, "image_id": image, "score": score} for image, score in (("b", 0.1), ("a", 0.2), ("b", 0.3))
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    read = read_detections(tmp_path / "r.json", pets)
    assert read.image.tolist() == [0, 1, 1] and read.score.tolist() == [0.2, 0.1, 0.3]
    assert read.box[0].tolist() == [1, 2, 4, 6]


@pytest.mark.parametrize("number", ["9" * 400, "1e400", "NaN"])
def test_a_score_or_a_side_beyond_any_float_is_told_with_its_entry(tmp_path, number):
    for key, text in (("score", number), ("bbox", f"[1, 2, {number}, 4]")):
        row = ", ".join(f'"{k}": {text if k == key else json.dumps(v)}' for k, v in GOOD.items())
        (tmp_path / "r.json").write_text(f"[{{{row}}}]")
        with pytest.raises(ValueError, match=rf"r\.json, entry 0 \(from 0\): {key} must be .*finite number"):
            read_rows(tmp_path / "r.json")


def test_lists_nested_without_end_are_told_with_their_file(tmp_path):
    (tmp_path / "r.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"r\.json is not JSON"):
        read_rows(tmp_path / "r.json")


def test_categories_are_the_datasets_own(tmp_path):
    DatasetCatalog.register("sparse", lambda: [{"image_id": 5, "width": 9, "height": 9, "annotations": []}])
    MetadataCatalog.get("sparse").set(
        thing_classes=["x", "y"], thing_dataset_id_to_contiguous_id={90: 1, 3: 0}
    )
    (tmp_path / "r.json").write_text(json.dumps([{**GOOD, "image_id": 5, "category_id": 90}]))
    assert read_detections(tmp_path / "r.json", "sparse").category.tolist() == [1]
    (tmp_path / "r.json").write_text(json.dumps([{**GOOD, "image_id": 5, "category_id": 1}]))
    with pytest.raises(
        ValueError, match=r"entry 0 .*: the category 1 is not in the dataset 'sparse', which has 90, 3"
    ):
        read_detections(tmp_path / "r.json", "sparse")


def test_an_empty_list_is_a_detector_that_finds_nothing(pets, tmp_path):
    (tmp_path / "r.json").write_text("[]")
    assert len(read_detections(tmp_path / "r.json", pets)) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "z"}, "the image 'z' is not in the dataset 'pets', which has 'a', 'b'"),
        ({"image_id": ["a"]}, r"image_id must be a number or a text, not \['a'\]"),
        ({"category_id": 2}, "the category 2 is not in the dataset 'pets', which has 0, 1"),
        ({"category_id": "cat"}, "the category 'cat' is not in"),
        ({"bbox": [1, 2, 3]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3, float("nan")]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 3, "4"]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, -3, 4]}, "bbox has a negative width or height"),
        ({"score": None}, "score must be a finite number, not None"),
        ({"score": float("inf")}, "score must be a finite number"),
    ],
)
def test_an_entry_that_cannot_be_used_is_told_with_its_number(pets, tmp_path, change, message):
    (tmp_path / "r.json").write_text(json.dumps([GOOD, {**GOOD, **change}]))
    with pytest.raises(ValueError, match=rf"r\.json, entry 1 \(from 0\): {message}"):
        read_detections(tmp_path / "r.json", pets)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "r.json is not JSON, or was cut short"),
        ("", "r.json is not JSON, or was cut short"),
        (b"\xff\xfe\x00", "r.json is not JSON, or was cut short"),
        ("{}", "no list of detections but an object: is it a file of annotations"),
        ("3", "no list of detections but 3"),
        ("[[]]", r"entry 0 \(from 0\): not a detection but a list"),
        ('[{"image_id": 1, "bbox": []}]', r"entry 0 \(from 0\): has no category_id and no score"),
    ],
)
def test_a_file_of_something_else_is_an_error(tmp_path, text, message):
    (tmp_path / "r.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "r.json")


def test_a_run_that_was_never_evaluated_is_told_how_to_be(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"none\.json does not exist: write it with det-distill eval "
    ):
        read_rows(tmp_path / "none.json")
