"""The dicts that a registered dataset is evaluated against."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.utils.file_io import PathManager

from det_distill.data.catalog import LoadedOnce
from det_distill.data.coco import BOXES_ALONE, note_boxes_alone
from det_distill.data.problems import DatasetError
from det_distill.data.voc import VocFolder, load_voc
from det_distill.files import load_json


def evaluation_dicts(name: str) -> list[dict[str, Any]]:
    """A dataset's dicts with everything that evaluation needs.

    * VOC folders: objects marked difficult are there and flagged, whatever training does with them; for the
      built-in voc_* names, whose dicts lack the flag, the XML files are read again, once per process.
    * COCO files: each object has the area of its annotation, which COCO rules sort it by, and objects whose outline
      cannot be trained on are there.  The built-in names are read again for it.
    * other datasets: their dicts as they are.

    Every object is checked: its box, and its class against the dataset's names.

    Args:
        name: a dataset in DatasetCatalog.

    Raises:
        DatasetError: a file of a VOC folder cannot be used; or an image or an object is not in detectron2's standard
            form, or of no class of the dataset; says which.
        KeyError: the name is not registered.
    """
    dicts = _dicts(name)
    classes = MetadataCatalog.get(name).get("thing_classes")
    for record in dicts:
        if problem := _problem(record, None if classes is None else len(classes)):
            raise DatasetError(f"The dataset '{name}', image {record.get('image_id')!r}: {problem}")
    return dicts


def _dicts(name: str) -> list[dict[str, Any]]:
    registered = DatasetCatalog[name]
    metadata = MetadataCatalog.get(name)
    if isinstance(registered, LoadedOnce):
        source = registered.source
        if isinstance(source, VocFolder) and source.difficult == "skip":
            return _with_difficult(source.root, source.split, source.classes)
    elif metadata.get("evaluator_type") == "pascal_voc":
        return _with_difficult(Path(metadata.dirname), metadata.split, tuple(metadata.thing_classes))
    elif metadata.get("evaluator_type") == "coco" and metadata.get("image_root"):
        file = metadata.json_file
        keys = ["id", "area"]
        records = load_coco_json(file, metadata.image_root, name, extra_annotation_keys=keys)
        note_boxes_alone(records, load_json(PathManager.get_local_path(file))["annotations"], name)
        return _with_boxes_alone(records)
    return _with_boxes_alone(DatasetCatalog.get(name))


def _with_boxes_alone(dicts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**record, "annotations": [*record["annotations"], *record[BOXES_ALONE]]}
        if BOXES_ALONE in record
        else record
        for record in dicts
    ]


def _problem(record: Mapping[str, Any], classes: int | None) -> str:
    """What is wrong with an image; "": nothing."""
    if "label" in record:  # a classifier's
        return ""
    if missing := [key for key in ("image_id", "width", "height") if key not in record]:
        return f"its dict has no {', '.join(missing)}"
    objects = record.get("annotations", ())
    if not isinstance(objects, (list, tuple)):
        return f"'annotations' must be a list, empty if there is no object, not {objects!r}"
    for number, entry in enumerate(objects):
        if missing := [key for key in ("bbox", "bbox_mode", "category_id") if key not in entry]:
            return f"object {number} (from 0) has no {', '.join(missing)}"
        category = entry["category_id"]
        whole = isinstance(category, (int, np.integer))
        if not whole or category < 0 or (classes is not None and category >= classes):
            known = (
                "of no class"
                if classes is None
                else f"and thing_classes has {classes} names, for 0 to {classes - 1}"
            )
            return f"object {number} (from 0) has the class {category!r}, {known}"
    return ""


@lru_cache(maxsize=4)
def _with_difficult(root: Path, split: str, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    return load_voc(root, split, classes)
