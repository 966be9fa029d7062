"""COCO json files: read as detectron2 reads them, checked before."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from det_distill.data import DatasetError, register_coco
from det_distill.data.coco import load_coco


def entry(number, image, box, **more):
    return {"id": number, "image_id": image, "category_id": 1, "bbox": box, "area": 5.5, **more}


GOOD = [entry(1, 1, [1.25, 2, 3, 4], iscrowd=1), entry(2, 2, [5, 6, 7.5, 8], category_id=2, iscrowd=0)]


def test_a_good_file_gives_the_dicts_of_detectron2(coco_files, caplog):
    file, images = coco_files(GOOD)
    assert load_coco(file, images, "ours") == load_coco_json(
        str(file), str(images), "theirs", extra_annotation_keys=["area"]
    )
    assert not caplog.records


def test_registration_tells_detectron2_where_the_files_are(coco_files):
    file, images = coco_files(GOOD)
    register_coco("pets", file, images)
    assert len(DatasetCatalog.get("pets")) == 2
    metadata = MetadataCatalog.get("pets")
    assert (metadata.json_file, metadata.image_root) == (str(file), str(images))
    assert (metadata.thing_classes, metadata.evaluator_type) == (["cat", "dog"], "det_distill")


@pytest.mark.parametrize(
    ("box", "kept", "kind"),
    [
        ([1, 2, 0, 4], None, "degenerate box"),
        ([1, 2, 3, -4], None, "degenerate box"),
        ([50, 2, 3, 4], None, "box outside the image"),
        ([-5, 2, 10, 4], [0, 2, 5, 4], "box partly outside the image"),
        ([1, 2, float("nan"), 4], None, "box that is not four finite numbers"),
        ([1, 2, "x", 4], None, "box that is not four finite numbers"),
        ([1, 2, 3], None, "box that is not four finite numbers"),
        ([1, 2, 10**400, 4], None, "box that is not four finite numbers"),
    ],
)
def test_a_bad_box_is_left_out_or_clipped_and_reported(coco_files, caplog, box, kept, kind):
    dicts = load_coco(*coco_files([*GOOD, entry(3, 1, box)]), "pets")
    assert [found["bbox"] for found in dicts[0]["annotations"]] == [GOOD[0]["bbox"]] + (
        [kept] if kept else []
    )
    assert f"{kind}: 1" in caplog.text
    assert "1.jpg (annotation 3" in caplog.text


def test_category_ids_with_gaps_become_contiguous_and_that_is_said(coco_files, caplog):
    categories = [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}]
    annotations = [entry(1, 1, [1, 2, 3, 4], category_id=90), entry(2, 2, [1, 2, 3, 4], category_id=7)]
    dicts = load_coco(*coco_files(annotations, categories=categories), "pets")
    assert [record["annotations"][0]["category_id"] for record in dicts] == [1, 0]
    assert MetadataCatalog.get("pets").thing_classes == ["cat", "dog"]
    assert "category ids not 1 to N: 1" in caplog.text


def test_an_image_without_annotation_is_kept_and_mentioned(coco_files, caplog):
    assert len(load_coco(*coco_files(GOOD, image_count=3), "pets")) == 3
    assert "image without annotation: 1" in caplog.text
    assert "3.jpg" in caplog.text


def test_the_size_comes_from_the_image_file(coco_files, caplog):
    file, images = coco_files(GOOD)
    Image.new("RGB", (20, 15)).save(images / "2.jpg")
    record = load_coco(file, images, "pets")[1]
    assert (record["width"], record["height"]) == (20, 15)
    assert "annotation: 40x30, file: 20x15" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"annotations": [*GOOD, entry(3, 1, [1, 2, 3, 4], category_id=9)]},
            "unknown class: 1.*category id 9",
        ),
        ({"annotations": [*GOOD, entry(2, 1, [1, 2, 3, 4])]}, "id used twice: 1.*annotation 2"),
        ({"annotations": [*GOOD, entry(3, 1, [1, 2, 3, 4], ignore=1)]}, "annotation 3 has an ignore flag"),
        ({"annotations": [*GOOD, {"id": 3}]}, "annotation number 2 .no image_id, category_id, bbox"),
        ({"annotations": [*GOOD, entry(3, 1, [])]}, "annotation number 2 .no bbox"),
        ({"annotations": [*GOOD, entry(3, 1, None)]}, "annotation number 2 .no bbox"),
        ({"annotations": [*GOOD, "x"]}, "annotation number 2 .no id"),
        ({"annotations": []}, "no annotation at all"),
        ({"annotations": {}}, "it has no list 'annotations'"),
        ({"categories": []}, "broken json entry.*category .there is none"),
        ({"images": []}, "broken json entry.*image .there is none"),
        ({"categories": [{"id": "one", "name": "cat"}]}, "an id is not an integer"),
    ],
)
def test_a_broken_entry_is_an_error_that_names_it(coco_files, changes, message):
    file, images = coco_files(GOOD, **changes)
    with pytest.raises(DatasetError, match=rf"(?s){message}"):
        load_coco(file, images, "pets")


ODD_VALUES = [
    ("images", {"file_name": 5}, "image number 0 .file_name must be a text, not 5"),
    ("categories", {"name": 5}, "category number 0 .name must be a text, not 5"),
    ("categories", {"name": {"a": 1}}, "category number 0 .name must be a text"),
    ("annotations", {"segmentation": 5}, "annotation number 0 .segmentation must be a list of polygons"),
    ("annotations", {"segmentation": [5]}, "segmentation must be"),
    ("annotations", {"segmentation": [["a"] * 6]}, "segmentation must be"),
    ("annotations", {"segmentation": {"counts": 5, "size": [1, 1]}}, "segmentation must be"),
    ("annotations", {"segmentation": {"counts": "x"}}, "segmentation must be"),
    ("annotations", {"keypoints": 5}, "keypoints must be a list of numbers, three per point"),
    ("annotations", {"keypoints": [1, 2]}, "keypoints must be"),
    ("annotations", {"iscrowd": [1]}, "iscrowd must be 0 or 1"),
    ("annotations", {"iscrowd": "x"}, "iscrowd must be 0 or 1"),
    ("annotations", {"iscrowd": 2}, "iscrowd must be 0 or 1"),
    ("annotations", {"area": {}}, "area must be a number, not negative"),
    ("annotations", {"area": "x"}, "area must be"),
    ("annotations", {"area": -1}, "area must be"),
    ("annotations", {"area": 10**400}, "area must be"),
]


@pytest.mark.parametrize(("part", "value", "message"), ODD_VALUES)
def test_a_value_of_another_kind_is_an_error_that_names_the_file_and_the_entry(
    coco_files, part, value, message
):
    path, images = coco_files(GOOD)
    content = json.loads(path.read_text())
    content[part][0].update(value)
    path.write_text(json.dumps(content))
    with pytest.raises(
        DatasetError, match=rf"(?s)instances\.json cannot be used:.*broken json entry.*{message}"
    ):
        load_coco(path, images, "pets")


def test_a_crowd_flag_or_an_area_that_is_null_is_as_none(coco_files):
    dicts = load_coco(*coco_files([entry(1, 1, [1, 2, 3, 4], iscrowd=None, area=None)]), "pets")
    assert dicts[0]["annotations"] == [{"iscrowd": 0, "bbox": [1, 2, 3, 4], "category_id": 0, "bbox_mode": 1}]


def test_an_annotation_of_an_unlisted_image_is_left_out(coco_files, caplog):
    dicts = load_coco(*coco_files([*GOOD, entry(3, 77, [1, 2, 3, 4])]), "pets")
    assert [len(record["annotations"]) for record in dicts] == [1, 1]
    assert "annotation of an image that is not listed: 1" in caplog.text


def test_missing_files_are_errors(coco_files, tmp_path):
    file, images = coco_files(GOOD)
    (images / "2.jpg").unlink()
    with pytest.raises(DatasetError, match=r"image missing: 1(.|\n)*2\.jpg"):
        load_coco(file, images, "pets")
    with pytest.raises(DatasetError, match=r"none\.json \(no such file\)"):
        load_coco(tmp_path / "none.json", images, "pets")
    with pytest.raises(DatasetError, match="folder missing"):
        load_coco(file, tmp_path / "none", "pets")


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_a_file_that_is_no_instances_file_is_an_error(coco_files, text):
    file, images = coco_files(GOOD)
    file.write_text(text)
    with pytest.raises(DatasetError, match="json file not readable"):
        load_coco(file, images, "pets")
