"""Folders in PASCAL VOC layout: `Annotations/*.xml`, `ImageSets/Main/<split>.txt`, `JPEGImages/*`."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from det_distill.data.boxes import checked_box
from det_distill.data.catalog import register_once, resolve_path
from det_distill.data.images import ImageFolder, checked_size
from det_distill.data.problems import DatasetReport
from det_distill.data.voc_layout import discover_classes, note_unreadable, split_file, split_names
from det_distill.data.voc_xml import AnnotationError, VocAnnotation, VocObject, read_annotation

DIFFICULT = ("keep", "skip")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VocFolder:
    """One split of a folder in VOC layout.

    Attributes:
        root: the folder that holds Annotations, ImageSets and JPEGImages.
        split: the name of a file in ImageSets/Main, without .txt.
        classes: the class names in the order of their ids; empty means discovered (`discover_classes`).
        difficult: "keep" or "skip" objects marked difficult.
    """

    root: Path
    split: str
    classes: tuple[str, ...] = ()
    difficult: str = "keep"

    def class_names(self) -> tuple[str, ...]:
        """The given classes, or those found in the folder's annotation files."""
        return self.classes or discover_classes(self.root)

    def load(self, name: str) -> list[dict[str, Any]]:
        """The dicts of `load_voc`; the class names go into the metadata of the dataset `name`."""
        dicts = load_voc(self.root, self.split, self.classes, self.difficult)
        MetadataCatalog.get(name).thing_classes = list(self.class_names())
        return dicts


def register_voc(
    name: str, root: str | Path, split: str, classes: Sequence[str] = (), difficult: str = "keep"
) -> str:
    """Register one split of a folder in PASCAL VOC layout with detectron2.

    The metadata get thing_classes, dirname, split and evaluator_type "det_distill".  Files are checked when
    the dataset is loaded (`load_voc`), once per process; here they are read only to discover classes.

    Args:
        name: the dataset's name in DATASETS.TRAIN and DATASETS.TEST.
        root: the folder; a relative one is looked up in the working directory, then in $DETECTRON2_DATASETS
            (default "datasets").
        split: the name of a file in ImageSets/Main, without .txt.
        classes: the class names in the order of their ids.  Empty: the sorted names in all annotation files
            of the folder, so that its training and test splits agree.
        difficult: "keep" (as detectron2 does in training) or "skip" the objects marked difficult.  Evaluation
            reads them in any case: VOC rules ignore them.

    Returns:
        `name`, so that a LazyConfig can register a dataset where it names it.

    Raises:
        ValueError: `difficult` is neither, a class is listed twice, or the name is taken by another dataset.
    """
    if difficult not in DIFFICULT:
        raise ValueError(f"Dataset '{name}': difficult must be one of {DIFFICULT}, not {difficult!r}.")
    if repeated := sorted({entry for entry in classes if list(classes).count(entry) > 1}):
        raise ValueError(f"Dataset '{name}': {repeated} are listed more than once in its classes.")
    folder = VocFolder(resolve_path(root), split, tuple(classes), difficult)
    if register_once(name, folder):
        metadata = MetadataCatalog.get(name)
        metadata.set(dirname=str(folder.root), split=split, evaluator_type="det_distill")
        if found := folder.class_names():
            metadata.thing_classes = list(found)
    return name


def load_voc(
    root: Path, split: str, classes: Sequence[str] = (), difficult: str = "keep"
) -> list[dict[str, Any]]:
    """Read one split into detectron2's standard dicts, checking every file it will need.

    Each dict has file_name, image_id (the name in the split file), height, width (pixels, from the image's
    header) and annotations: bbox (x0, y0, x1, y1) in pixels with VOC's 1-based pixel minus 1 as detectron2
    reads it, bbox_mode XYXY_ABS, category_id, iscrowd 0, difficult 0 or 1.

    One warning tells which boxes were left out (no area: xmax <= xmin or ymax <= ymin; outside the image; not
    four numbers) or clipped (partly outside) and where image sizes differ from the XML.

    Args:
        root: the folder in VOC layout.
        split: the name of a file in ImageSets/Main, without .txt.  Blank lines, CRLF and a second column of
            -1, 0 or 1 (VOC's lists per class) are accepted; the column is ignored.
        classes: class names in the order of their ids; empty: `discover_classes`.
        difficult: "keep" or "skip" the objects marked difficult.

    Raises:
        DatasetError: the folder, split, an image or annotation is missing or unreadable, a class is unknown,
            or there is no box at all; lists the files.
    """
    report = DatasetReport(f"{root} (split {split})")
    names = split_names(root, split, report)
    if not report.problems and not names:
        report.add("empty split", split_file(root, split))
    if not classes and root.is_dir():
        note_unreadable(root, set(names), report)
    reader = _SplitReader(root, list(classes or discover_classes(root)), difficult, report)
    dicts = [record for name in names if (record := reader.read(name)) is not None]
    if dicts and not any(record["annotations"] for record in dicts):
        report.add("no annotation at all", split_file(root, split))
    report.settle(logger)
    return dicts


class _SplitReader:
    """Turns image names into dicts, one at a time, filling a report."""

    def __init__(self, root: Path, classes: list[str], difficult: str, report: DatasetReport) -> None:
        self.root = root
        self.images = ImageFolder(root / "JPEGImages")
        self.ids = {name: index for index, name in enumerate(classes)}
        self.skip_difficult = difficult == "skip"
        self.report = report

    def read(self, name: str) -> dict[str, Any] | None:
        """One image's dict; None if its annotation or image cannot be used (reported)."""
        annotation = self._annotation(name)
        path = self.images.find(name)
        if path is None:
            self.report.add("image missing", self.images.root / f"{name}.jpg", "or any other image suffix")
            return None
        size = checked_size(path, annotation.size if annotation else None, self.report)
        if annotation is None or size is None:
            return None
        return {
            "file_name": str(path),
            "image_id": name,
            "width": size[0],
            "height": size[1],
            "annotations": list(self._objects(name, annotation, size)),
        }

    def _annotation(self, name: str) -> VocAnnotation | None:
        path = self.root / "Annotations" / f"{name}.xml"
        if not path.is_file():
            self.report.add("annotation file missing", path)
            return None
        try:
            return read_annotation(path)
        except AnnotationError as error:
            self.report.add("annotation file not readable", path, str(error))
            return None

    def _objects(
        self, name: str, annotation: VocAnnotation, size: tuple[int, int]
    ) -> Iterator[dict[str, Any]]:
        for number, entry in enumerate(annotation.objects, start=1):
            where = f"object {number}, {entry.name}"
            bbox = self._box(entry, size, f"Annotations/{name}.xml", where)
            if entry.name not in self.ids:
                self.report.add("unknown class", f"Annotations/{name}.xml", where)
            elif bbox is not None and not (entry.difficult and self.skip_difficult):
                yield {
                    "bbox": bbox,
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": self.ids[entry.name],
                    "iscrowd": 0,
                    "difficult": int(entry.difficult),
                }

    def _box(self, entry: VocObject, size: tuple[int, int], file: str, where: str) -> list[float] | None:
        # A box of one pixel has xmin == xmax: a click, not an object.
        box, problem = checked_box(entry.box, *size, smallest=1.0)
        if problem:
            xmin, ymin, xmax, ymax = (entry.box[0] + 1, entry.box[1] + 1, *entry.box[2:])
            self.report.add(problem, file, f"{where}: {xmin:g} {ymin:g} {xmax:g} {ymax:g}")
        return None if box is None else list(box)
