"""COCO json files: checked, then read by detectron2's own `load_coco_json`."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode

from det_distill.data.catalog import register_once, resolve_path
from det_distill.data.coco_checks import CocoChecker
from det_distill.data.problems import DatasetReport
from det_distill.files import FileError, load_json

logger = logging.getLogger(__name__)

BOXES_ALONE = "boxes_alone"
"""In an image's dict: the objects whose outline cannot be trained on; evaluation counts them."""


@dataclass(frozen=True)
class CocoFile:
    """A COCO instances file and the folder of its images."""

    json: Path
    images: Path

    def load(self, name: str) -> list[dict[str, Any]]:
        """The dicts of `load_coco`; detectron2 puts class names and id map into the metadata of `name`."""
        return load_coco(self.json, self.images, name)


def register_coco(name: str, json: str | Path, images: str | Path) -> None:
    """Register a COCO instances file with detectron2.

    The metadata get json_file, image_root and evaluator_type "det_distill", and at loading thing_classes and
    thing_dataset_id_to_contiguous_id.  Files are read and checked at loading (`load_coco`), once per process.

    Args:
        name: the dataset's name in DATASETS.TRAIN and DATASETS.TEST.
        json: the instances file.
        images: the folder that its file names start from.  Both are looked up as in `register_voc`.

    Raises:
        ValueError: the name is taken by another dataset.
    """
    source = CocoFile(resolve_path(json), resolve_path(images))
    if register_once(name, source):
        MetadataCatalog.get(name).set(
            json_file=str(source.json), image_root=str(source.images), evaluator_type="det_distill"
        )


def load_coco(json: Path, images: Path, name: str) -> list[dict[str, Any]]:
    """Read a COCO instances file into detectron2's standard dicts, checking everything first.

    As `load_coco_json`, with height and width from the image headers, iscrowd always there, area (square pixels, as
    the file states it) and `BOXES_ALONE` for evaluation.  One warning tells which boxes (x, y, width, height) were
    left out (width or height not above 0, outside the image, not four numbers) or clipped.

    Args:
        json: the instances file.
        images: the folder that its file names start from.
        name: the dataset, whose metadata get the class names and the map of category ids.

    Raises:
        DatasetError: a file is missing or unreadable, an entry lacks what it must have or has a value of another
            kind (`wrong_value`), an id is used twice,
            a category is not defined, or there is no box at all; lists them.
    """
    report = DatasetReport(str(json))
    content = _read(json, images, report)
    report.settle(logger)
    checker = CocoChecker(images, report)
    checker.check(content)
    report.settle(logger)
    records = load_coco_json(str(json), str(images), name, extra_annotation_keys=["id", "area"])
    note_boxes_alone(records, content["annotations"], name)
    return [_repaired(record, checker) for record in records]


def note_boxes_alone(
    records: Sequence[dict[str, Any]], annotations: Sequence[Mapping[str, Any]], name: str
) -> None:
    """Put under `BOXES_ALONE` what `load_coco_json` left out: objects with polygons, but none of three points.

    Args:
        records: what it read, changed in place, with ``id`` among the annotations' keys.
        annotations: those of the file.
        name: the dataset, whose metadata have the map of category ids.
    """
    kept = {entry["id"] for record in records for entry in record["annotations"]}
    numbers = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    found: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    images = {record["image_id"] for record in records}
    for entry in annotations:
        if entry["id"] not in kept and entry["image_id"] in images:
            plain = {key: entry[key] for key in ("id", "iscrowd", "bbox", "area") if key in entry}
            category = numbers[entry["category_id"]]
            found[entry["image_id"]].append({**plain, "category_id": category, "bbox_mode": BoxMode.XYWH_ABS})
    for record in records:
        if record["image_id"] in found:
            record[BOXES_ALONE] = found[record["image_id"]]


def _read(json: Path, images: Path, report: DatasetReport) -> Mapping[str, Any]:
    if not json.is_file():
        report.add("json file not readable", json, "no such file")
    if not images.is_dir():
        report.add("folder missing", images)
    if report.problems:
        return {}
    try:
        content = load_json(json)
    except FileError as error:
        report.add("json file not readable", json, str(error))
        return {}
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            report.add("json file not readable", json, f"it has no list '{key}'")
    return content


def _repaired(record: dict[str, Any], checker: CocoChecker) -> dict[str, Any]:
    """A dict of `load_coco_json` with the checker's image size and boxes."""
    record["width"], record["height"] = checker.sizes[record["image_id"]]
    for key in ("annotations", BOXES_ALONE):
        if key in record:
            record[key] = [
                {**_plain(annotation), "bbox": list(bbox)}
                for annotation in record[key]
                if (bbox := checker.boxes[annotation.pop("id")]) is not None
            ]
    return record


def _plain(annotation: dict[str, Any]) -> dict[str, Any]:
    """An annotation with its crowd flag, and without an area that is null."""
    flag = int(annotation.get("iscrowd") or 0)
    return {k: v for k, v in annotation.items() if k != "area" or v is not None} | {"iscrowd": flag}
