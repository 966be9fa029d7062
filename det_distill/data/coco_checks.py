"""What can be wrong inside a COCO instances file."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from det_distill.data.boxes import Box, checked_box
from det_distill.data.coco_values import wrong_value
from det_distill.data.images import checked_size
from det_distill.data.problems import DatasetReport


class CocoChecker:
    """Checks the entries of an instances file against each other and against the image files.

    Args:
        images: the folder that file names start from.
        report: gets what is wrong.

    Attributes:
        sizes: image id -> (width, height) in pixels as detectron2 will read it; unreadable images are absent.
        boxes: annotation id -> (x, y, width, height) clipped to the image, or None for a box to leave out.
    """

    def __init__(self, images: Path, report: DatasetReport) -> None:
        self.images = images
        self.report = report
        self.sizes: dict[Any, tuple[int, int]] = {}
        self.boxes: dict[Any, Box | None] = {}

    def check(self, content: Mapping[str, Sequence[Any]]) -> None:
        """Check a whole file: an object with the lists images, annotations and categories."""
        categories = self._entries(content["categories"], "category", ("id", "name"))
        images = self._entries(content["images"], "image", ("id", "file_name", "width", "height"))
        annotations = self._entries(
            content["annotations"], "annotation", ("id", "image_id", "category_id", "bbox")
        )
        if self.report.of("broken json entry"):
            return  # what such an entry defines would be missing, and the message would say so
        for label, entries in (("category", categories), ("image", images), ("annotation", annotations)):
            self._unique(entries, label)
        ids = {entry["id"] for entry in categories}
        if ids != set(range(1, len(ids) + 1)):
            self.report.add(
                "category ids not 1 to N", "categories", f"{min(ids)} to {max(ids)}, {len(ids)} ids"
            )
        for entry in images:
            self._image(entry)
        self._annotations(annotations, ids, {entry["id"]: entry["file_name"] for entry in images})

    def _entries(self, entries: Sequence[Any], label: str, keys: tuple[str, ...]) -> list[dict[str, Any]]:
        """The entries that have all keys; the others are reported."""
        good = []
        for number, entry in enumerate(entries):
            missing = [key for key in keys if not isinstance(entry, dict) or entry.get(key) in (None, [])]
            if missing:
                self.report.add("broken json entry", f"{label} number {number}", f"no {', '.join(missing)}")
            elif not all(isinstance(entry[key], int) for key in keys if key.endswith("id")):
                self.report.add("broken json entry", f"{label} number {number}", "an id is not an integer")
            elif wrong := wrong_value(entry):
                self.report.add("broken json entry", f"{label} number {number}", wrong)
            else:
                good.append(entry)
        if not entries and label != "annotation":
            self.report.add("broken json entry", label, "there is none")
        return good

    def _unique(self, entries: Sequence[Mapping[str, Any]], label: str) -> None:
        seen = set()
        for entry in entries:
            if entry["id"] in seen:
                self.report.add("id used twice", f"{label} {entry['id']}")
            seen.add(entry["id"])

    def _image(self, entry: Mapping[str, Any]) -> None:
        annotated = (entry["width"], entry["height"])
        if size := checked_size(self.images / entry["file_name"], annotated, self.report):
            self.sizes[entry["id"]] = size

    def _annotations(
        self, annotations: Sequence[Mapping[str, Any]], categories: set[Any], images: Mapping[Any, str]
    ) -> None:
        with_boxes = set()
        for entry in annotations:
            number, image = entry["id"], entry["image_id"]
            if image not in images:
                self.report.add("annotation of an image that is not listed", f"annotation {number}")
                continue
            if entry["category_id"] not in categories:
                detail = f"annotation {number}: category id {entry['category_id']} is not defined"
                self.report.add("unknown class", images[image], detail)
            if entry.get("ignore", 0):
                detail = f"annotation {number} has an ignore flag, which detectron2 does not read"
                self.report.add("broken json entry", images[image], detail)
            if image in self.sizes:
                self.boxes[number] = self._box(entry, images[image], self.sizes[image])
                if self.boxes[number] is not None:
                    with_boxes.add(image)
        self._images_without_boxes(images, with_boxes)

    def _images_without_boxes(self, images: Mapping[Any, str], with_boxes: set[Any]) -> None:
        if self.sizes and not with_boxes:
            self.report.add("no annotation at all", self.report.dataset)
            return
        for number, file in images.items():
            if number in self.sizes and number not in with_boxes:
                self.report.add("image without annotation", file)

    def _box(self, entry: Mapping[str, Any], file: str, size: tuple[int, int]) -> Box | None:
        bbox = _four_numbers(entry.get("bbox"))
        x, y, width, height = bbox
        box, problem = checked_box((x, y, x + width, y + height), *size)
        if problem:
            self.report.add(problem, file, f"annotation {entry['id']}: {entry.get('bbox')}")
        if box is None or box == (x, y, x + width, y + height):
            # What needs no clipping keeps its numbers to the last bit.
            return None if box is None else bbox
        return (box[0], box[1], box[2] - box[0], box[3] - box[1])


def _four_numbers(value: Any) -> Box:
    """(x, y, width, height) of a json value; NaN for what is not a list of four numbers."""
    try:
        x, y, width, height = (float(number) for number in value)
    except (TypeError, ValueError, OverflowError):
        return (math.nan, math.nan, math.nan, math.nan)
    return (x, y, width, height)
