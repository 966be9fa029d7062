"""Detections in a file: COCO's result format, as `DetectionEvaluator` and detectron2's COCOEvaluator write it."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from det_distill.evaluation.columns import Detections
from det_distill.evaluation.ground_truth import evaluation_dicts

__all__ = ["FILE_NAME", "read_detections", "read_rows", "write_detections"]

FILE_NAME = "coco_instances_results.json"
"""What the file is called in a run's folder ``inference``."""


def read_detections(path: str | Path, dataset_name: str) -> Detections:
    """Read detections and check each against the dataset that they are said to be of.

    Args:
        path: a JSON list of {"image_id", "category_id", "bbox": [x, y, width, height] in pixels, "score"}, with the
            dataset's own image and category ids.
        dataset_name: a dataset in DatasetCatalog.

    Returns:
        The detections in the order of the dataset's images, those of an image in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, not such a list, or names an image or a category that the dataset lacks; says
            which entry.
        KeyError: the dataset is not registered.
    """
    images = {record["image_id"]: index for index, record in enumerate(evaluation_dicts(dataset_name))}
    metadata = MetadataCatalog.get(dataset_name)
    own = metadata.get("thing_dataset_id_to_contiguous_id", {})
    categories = own or {index: index for index in range(len(metadata.thing_classes))}
    rows = read_rows(path)
    image, category = [], []
    for number, row in enumerate(rows):
        where = f"{path}, entry {number} (from 0)"
        image.append(_known(row["image_id"], images, "image", dataset_name, where))
        category.append(_known(row["category_id"], categories, "category", dataset_name, where))
    order = np.argsort(np.array(image, dtype=np.int64), kind="stable")
    box = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    box[:, 2:] += box[:, :2]
    return Detections(
        image=np.array(image, dtype=np.int64)[order],
        category=np.array(category, dtype=np.int64)[order],
        box=box[order],
        score=np.array([row["score"] for row in rows], dtype=np.float64)[order],
    )


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Read the entries of a file and check that each has its fields, not yet that it fits a dataset.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON or not a list of detections; says which entry.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: write it with det-distill eval --config-file CONFIG")
    try:
        rows = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # a text that is not UTF-8, too; lists nested without end
        raise ValueError(f"{path} is not JSON, or was cut short: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path} has no list of detections but {_kind(rows)}: is it a file of annotations?")
    for number, row in enumerate(rows):
        if problem := _problem(row):
            raise ValueError(f"{path}, entry {number} (from 0): {problem}")
    return rows


def write_detections(
    detections: Detections,
    path: str | Path,
    image_ids: Sequence[Hashable],
    category_ids: Mapping[int, int],
) -> None:
    """Write detections as `read_detections` reads them; the folder is made.

    Args:
        detections: what was found.
        path: the file.
        image_ids: the dataset's own id of each image; what JSON does not know is written as a text.
        category_ids: contiguous class id -> the dataset's own id, where they differ.
    """
    columns = (detections.image, detections.category, detections.box, detections.score)
    rows = [
        {
            "image_id": image_ids[image],
            "category_id": category_ids.get(category, category),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": score,
        }
        for image, category, (x0, y0, x1, y1), score in zip(*(c.tolist() for c in columns), strict=True)
    ]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(rows, default=_plain))


def _plain(image_id: Any) -> Any:
    return image_id.item() if isinstance(image_id, np.generic) else str(image_id)


def _known(key: Any, known: Mapping[Any, int], kind: str, dataset: str, where: str) -> int:
    """The number of an image or a category."""
    if key in known:
        return known[key]
    some = ", ".join(repr(name) for name in list(known)[:3]) + (", ..." if len(known) > 3 else "")
    raise ValueError(f"{where}: the {kind} {key!r} is not in the dataset '{dataset}', which has {some}")


def _problem(row: Any) -> str:
    """What is wrong with an entry; "": nothing."""
    if not isinstance(row, dict):
        return f"not a detection but {_kind(row)}"
    if missing := [key for key in ("image_id", "category_id", "bbox", "score") if key not in row]:
        return f"has no {' and no '.join(missing)}"
    for key in ("image_id", "category_id"):
        if isinstance(row[key], (list, dict)):
            return f"{key} must be a number or a text, not {row[key]!r}"
    box = row["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_finite, box))):
        return f"bbox must be four finite numbers (x, y, width, height), not {box!r}"
    if min(box[2:]) < 0:
        return f"bbox has a negative width or height: {box!r}"
    return "" if _finite(row["score"]) else f"score must be a finite number, not {row['score']!r}"


def _finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _kind(value: Any) -> str:
    """What a JSON value is, for a message."""
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), f"{value!r}")
