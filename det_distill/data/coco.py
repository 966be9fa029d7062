"""COCO json files: checked, then read by detectron2's own `load_coco_json`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets import load_coco_json

from det_distill.data.catalog import register_once, resolve_path
from det_distill.data.coco_checks import CocoChecker
from det_distill.data.problems import DatasetReport
from det_distill.files import FileError, load_json

logger = logging.getLogger(__name__)


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

    As `load_coco_json`, with height and width from the image headers, iscrowd always there, and area (square
    pixels, as the file states it) for evaluation.  One warning tells which boxes (x, y, width, height) were
    left out (width or height not above 0, outside the image, not four numbers) or clipped.

    Args:
        json: the instances file.
        images: the folder that its file names start from.
        name: the dataset, whose metadata get the class names and the map of category ids.

    Raises:
        DatasetError: a file is missing or unreadable, an entry lacks what it must have, an id is used twice,
            a category is not defined, or there is no box at all; lists them.
    """
    report = DatasetReport(str(json))
    content = _read(json, images, report)
    report.settle(logger)
    checker = CocoChecker(images, report)
    checker.check(content)
    report.settle(logger)
    records = load_coco_json(str(json), str(images), name, extra_annotation_keys=["id", "area"])
    return [_repaired(record, checker) for record in records]


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
    kept = []
    for annotation in record["annotations"]:
        if (bbox := checker.boxes[annotation.pop("id")]) is not None:
            kept.append({"iscrowd": 0, **annotation, "bbox": list(bbox)})
    record["annotations"] = kept
    return record
