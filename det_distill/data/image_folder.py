"""Folders with one folder of images per class: `<root>/<class>/**/*.jpg`."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from det_distill.data.catalog import register_once, resolve_path
from det_distill.data.imagenet import IMAGENET_1K, imagenet_advice, imagenet_classes
from det_distill.data.images import SUFFIXES
from det_distill.data.problems import SHOWN, DatasetReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassFolders:
    """A folder with one folder of images per class, and perhaps a second one with queries.

    Attributes:
        root: the folder that holds those of the classes; with `queries`, the gallery.
        classes: the class names in the order of their numbers; empty: the sorted names of the folders.
        queries: a second folder of the same form, whose images search those of `root`.
    """

    root: Path
    classes: tuple[str, ...] = ()
    queries: Path | None = None

    def class_names(self) -> tuple[str, ...]:
        """The given classes, or those found in either folder."""
        return self.classes or _all_folders(*filter(None, [self.root, self.queries]))

    def load(self, name: str) -> list[dict[str, Any]]:
        """The dicts of `load_images`; the class names go into the metadata of the dataset `name`."""
        dicts = load_images(self.root, self.classes, self.queries)
        MetadataCatalog.get(name).thing_classes = list(self.class_names())
        return dicts


def register_images(
    name: str, root: str | Path, classes: Sequence[str] | str = (), queries: str | Path = ""
) -> str:
    """Register a folder with one folder of images per class with detectron2.

    The metadata get thing_classes, dirname and evaluator_type "image_classification".  Folders are read when the
    dataset is loaded (`load_images`), once per process; images are opened when they are needed.

    Args:
        name: the dataset's name in DATASETS.TRAIN and DATASETS.TEST.
        root: the folder; a relative one is looked up in the working directory, then in $DETECTRON2_DATASETS
            (default "datasets").
        classes: the class names, which are folders, in the order of their numbers.  Empty: all folders there are,
            sorted by name.  "imagenet-1k": the 1000 WordNet ids of ImageNet in their usual order; their readable names
            go into the metadata as class_descriptions, in the same order.
        queries: for retrieval, a second folder of the same form, looked up likewise: its images are the queries and
            those of `root` the gallery.  Empty: there are no roles, every image searches all others.

    Returns:
        `name`, so that a LazyConfig can register a dataset where it names it.

    Raises:
        ValueError: a class is listed twice, the queries lie in the gallery or it in them, the name is taken by
            another dataset, or "imagenet-1k" without the package timm.
    """
    descriptions: dict[str, str] = {}
    if isinstance(classes, str):
        if classes != IMAGENET_1K:
            raise ValueError(
                f"Dataset '{name}': classes must be a list of names or '{IMAGENET_1K}', not '{classes}'."
            )
        descriptions = imagenet_classes()
        classes = list(descriptions)
    if repeated := sorted({entry for entry in classes if list(classes).count(entry) > 1}):
        raise ValueError(f"Dataset '{name}': {repeated} are listed more than once in its classes.")
    source = ClassFolders(resolve_path(root), tuple(classes), resolve_path(queries) if str(queries) else None)
    _check_apart(name, source)
    if register_once(name, source):
        metadata = MetadataCatalog.get(name)
        metadata.set(dirname=str(source.root), evaluator_type="image_classification")
        if found := source.class_names():
            metadata.thing_classes = list(found)
        if descriptions:
            metadata.class_descriptions = list(descriptions.values())
    return name


def _check_apart(name: str, source: ClassFolders) -> None:
    if source.queries is None:
        return
    gallery, queries = source.root.resolve(), source.queries.resolve()
    if gallery == queries or gallery in queries.parents or queries in gallery.parents:
        raise ValueError(
            f"Dataset '{name}': the queries {source.queries} and the gallery {source.root} must be two folders side "
            "by side, neither within the other."
        )


def load_images(root: Path, classes: Sequence[str] = (), queries: Path | None = None) -> list[dict[str, Any]]:
    """List the images of all classes, class by class, sorted by path.

    Each dict has file_name, image_id (the path below `root`) and label (the number of its class).  Images may
    lie in folders of their own below a class; other files, and what begins with a dot, are passed over.  No image is
    opened: one that cannot be read is told, with its name, when its turn comes.

    With `queries`, the images of `root` come first and have the role "gallery", then come those of `queries` with the
    role "query"; the role also begins the image_id.  A class is one identity in both folders, and one of the folders
    may lack it.

    One warning tells which classes have no image and which folders CLASSES leaves out, another one which queries
    have nothing to find.

    Args:
        root: the folder that holds those of the classes.
        classes: the class names in the order of their numbers; empty: the sorted names of the folders of both.
        queries: a second folder of the same form.

    Raises:
        DatasetError: no such folder, no folder in it, none for a class, or no image at all.
    """
    report = DatasetReport(str(root) if queries is None else f"{root} with the queries {queries}")
    places = {"": root} if queries is None else {"gallery": root, "query": queries}
    names = list(classes) or list(_all_folders(*places.values()))
    dicts = [
        record for role, place in places.items() for record in _listed(place, names, role, report=report)
    ]
    if not report.of("folder missing", "no class folder"):
        _report_classes(names, dicts, places, report)
    report.advice = imagenet_advice(root, names, _folders(root))
    report.settle(logger)
    if queries is not None:
        _warn_of_queries_without_gallery(names, dicts, root)
    return dicts


def _listed(
    root: Path, names: Sequence[str], role: str, *, report: DatasetReport
) -> Iterator[dict[str, Any]]:
    """The dicts of one folder, and what is wrong with the folder itself."""
    present = _folders(root)
    if not root.is_dir():
        report.add("folder missing", root)
    elif not present:
        report.add("no class folder", root)
    for name in present:
        if name not in names:
            report.add("folder of no class", root / name)
    for label, name in enumerate(names):
        for file in _images(root / name) if name in present else ():
            record = {"file_name": file, "image_id": _id(file, root), "label": label}
            yield {**record, "image_id": f"{role}/{record['image_id']}", "role": role} if role else record


def _report_classes(
    names: Sequence[str], dicts: Sequence[dict[str, Any]], places: dict[str, Path], report: DatasetReport
) -> None:
    """What is wrong with classes: a class needs a folder, and should have an image, in one of the places."""
    seen, present = {record["label"] for record in dicts}, {p: _folders(p) for p in places.values()}
    there_are = f"there are: {', '.join(_all_folders(*present)[:20])}"
    for label, name in enumerate(names):
        folders = [place / name for place in present if name in present[place]]
        if not folders:
            report.add("class folder missing", next(iter(present)) / name, there_are)
            there_are = ""  # once is enough
        elif label not in seen:
            report.add("class without image", folders[0])
    for role, place in places.items():
        if not any(record.get("role", "") == role for record in dicts) and not report.of(
            "class folder missing"
        ):
            report.add("no image at all", place)


def _warn_of_queries_without_gallery(
    names: Sequence[str], dicts: Sequence[dict[str, Any]], root: Path
) -> None:
    gallery = {record["label"] for record in dicts if record["role"] == "gallery"}
    lost = [r["label"] for r in dicts if r["role"] == "query" and r["label"] not in gallery]
    if lost:
        classes = [names[label] for label in dict.fromkeys(lost)]
        more = f" and {len(classes) - SHOWN} more" if len(classes) > SHOWN else ""
        logger.warning(
            f"{len(lost)} queries of {len(classes)} classes have nothing to find: the gallery {root} has no image of "
            f"{', '.join(classes[:SHOWN])}{more}. Retrieval leaves these queries out."
        )


def _all_folders(*roots: Path) -> tuple[str, ...]:
    return tuple(sorted({name for root in roots for name in _folders(root)}))


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
