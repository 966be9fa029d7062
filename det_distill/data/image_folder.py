"""Folders with one folder of images per class: `<root>/<class>/**/*.jpg`."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from det_distill.data.catalog import register_once, resolve_path
from det_distill.data.images import SUFFIXES
from det_distill.data.problems import DatasetReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassFolders:
    """A folder with one folder of images per class.

    Attributes:
        root: the folder that holds those of the classes.
        classes: the class names in the order of their numbers; empty: the sorted names of the folders.
    """

    root: Path
    classes: tuple[str, ...] = ()

    def class_names(self) -> tuple[str, ...]:
        """The given classes, or those found."""
        return self.classes or tuple(_folders(self.root))

    def load(self, name: str) -> list[dict[str, Any]]:
        """The dicts of `load_images`; the class names go into the metadata of the dataset `name`."""
        dicts = load_images(self.root, self.classes)
        MetadataCatalog.get(name).thing_classes = list(self.class_names())
        return dicts


def register_images(name: str, root: str | Path, classes: Sequence[str] = ()) -> str:
    """Register a folder with one folder of images per class with detectron2.

    The metadata get thing_classes, dirname and evaluator_type "image_classification".  Folders are read when the
    dataset is loaded (`load_images`), once per process; images are opened when they are needed.

    Args:
        name: the dataset's name in DATASETS.TRAIN and DATASETS.TEST.
        root: the folder; a relative one is looked up in the working directory, then in $DETECTRON2_DATASETS
            (default "datasets").
        classes: the class names, which are folders, in the order of their numbers.  Empty: all folders there are,
            sorted by name.

    Returns:
        `name`, so that a LazyConfig can register a dataset where it names it.

    Raises:
        ValueError: a class is listed twice, or the name is taken by another dataset.
    """
    if repeated := sorted({entry for entry in classes if list(classes).count(entry) > 1}):
        raise ValueError(f"Dataset '{name}': {repeated} are listed more than once in its classes.")
    source = ClassFolders(resolve_path(root), tuple(classes))
    if register_once(name, source):
        metadata = MetadataCatalog.get(name)
        metadata.set(dirname=str(source.root), evaluator_type="image_classification")
        if found := source.class_names():
            metadata.thing_classes = list(found)
    return name


def load_images(root: Path, classes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """List the images of all classes, class by class, sorted by path.

    Each dict has file_name, image_id (the path below `root`) and label (the number of its class).  Images may
    lie in folders of their own below a class; other files, and what begins with a dot, are passed over.  No image is
    opened: one that cannot be read is told, with its name, when its turn comes.

    One warning tells which classes have no image and which folders CLASSES leaves out.

    Args:
        root: the folder that holds those of the classes.
        classes: the class names in the order of their numbers; empty: the sorted names of the folders.

    Raises:
        DatasetError: no such folder, no folder in it, none for a class, or no image at all.
    """
    report = DatasetReport(str(root))
    dicts: list[dict[str, Any]] = []
    if not root.is_dir():
        report.add("folder missing", root)
    else:
        present = _folders(root)
        names = list(classes) or present
        if not present:
            report.add("no class folder", root)
        for name in present:
            if name not in names:
                report.add("folder of no class", root / name)
        for label, name in enumerate(names):
            if name not in present:
                report.add("class folder missing", root / name, f"there are: {', '.join(present[:20])}")
                continue
            found = [
                {"file_name": str(p), "image_id": _id(p, root), "label": label} for p in _images(root / name)
            ]
            if not found:
                report.add("class without image", root / name)
            dicts += found
        if not dicts and not report.of("no class folder", "class folder missing"):
            report.add("no image at all", root)
    report.settle(logger)
    return dicts


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != ".")


def _images(folder: Path) -> Iterator[str]:
    """The images below a folder, sorted by path."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name[0] == ".":
            continue
        if entry.is_dir():
            yield from _images(Path(entry.path))
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield entry.path


def _id(file: str, root: Path) -> str:
    return os.path.relpath(file, root).replace(os.sep, "/")
