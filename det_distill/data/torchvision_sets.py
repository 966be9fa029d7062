"""torchvision's small classification sets, from local files: CIFAR-10/100, SVHN, MNIST, Fashion-MNIST."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from torchvision.datasets.utils import check_integrity

from det_distill.data.catalog import dataset_folder, register_once, resolve_path
from det_distill.data.problems import DatasetError, DatasetReport
from det_distill.data.split_ranges import SplitRange, parse_split
from det_distill.data.torchvision_files import SETS, Arrays, other_set

__all__ = ["TorchvisionSet", "load_torchvision", "register_torchvision"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TorchvisionSet:
    """Images of a set of torchvision.

    Attributes:
        dataset: a name of `SETS`.
        roots: the folders that may have its files; the first one that has any is used.
        split: see `parse_split`.
    """

    dataset: str
    roots: tuple[Path, ...]
    split: str

    def load(self, name: str) -> list[dict[str, Any]]:
        """The dicts of `load_torchvision`; the class names go into the metadata of the dataset `name`."""
        parts = [split_range.name for split_range in parse_split(self.split, SETS[self.dataset].parts)]
        files = SETS[self.dataset].files
        root = next(
            (r for r in self.roots if any(file.is_file() for part in parts for file, _ in files(r, part))),
            self.roots[0],
        )
        dicts, classes = load_torchvision(self.dataset, root, self.split)
        MetadataCatalog.get(name).thing_classes = list(classes)
        return dicts


def register_torchvision(name: str, dataset: str, root: str | Path, split: str) -> str:
    """Register a classification set of torchvision with detectron2; nothing is ever downloaded.

    The metadata get evaluator_type "image_classification" and at loading thing_classes.  Files are read and checked
    when the dataset is loaded (`load_torchvision`), once per process.

    Args:
        name: the dataset's name in DATASETS.TRAIN and DATASETS.TEST.
        dataset: "CIFAR10", "CIFAR100", "SVHN", "MNIST" or "FashionMNIST".
        root: the folder that torchvision calls root; a relative one is looked up in the working directory, then in
            $DETECTRON2_DATASETS (default "datasets").  "": that folder itself, of which MNIST and Fashion-MNIST, whose
            files have the same names, only take MNIST/raw and FashionMNIST/raw; then, for Fashion-MNIST, the folder
            of the Debian package dataset-fashion-mnist.
        split: "train", "test" or, of SVHN, "extra", each with a range of images ("train[6000:]" and "train[:6000]" to
            hold some out) or without, several joined by "+".  Images are counted in the order of the files.

    Returns:
        `name`, so that a LazyConfig can register a dataset where it names it.

    Raises:
        ValueError: an unknown dataset, a split that cannot be read, or a name that another dataset has.
    """
    if dataset not in SETS:
        raise ValueError(f"Dataset '{name}': '{dataset}' is none of torchvision's sets {', '.join(SETS)}.")
    try:
        parse_split(split, SETS[dataset].parts)
    except ValueError as error:
        raise ValueError(f"Dataset '{name}' ({dataset}): {error}.") from error
    roots = (resolve_path(root),) if str(root) else SETS[dataset].places(dataset_folder().absolute())
    if register_once(name, TorchvisionSet(dataset, roots, split)):
        MetadataCatalog.get(name).evaluator_type = "image_classification"
    return name


def load_torchvision(dataset: str, root: Path, split: str) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Read a set of torchvision from its files.

    Args:
        dataset: a name of `SETS`.
        root: the folder with its files.
        split: see `parse_split`.

    Returns:
        A dict for each image, and the names of the classes.  The dicts have image_id ("train/00041": the image's number
        in its part), label, and pixels, uint8 (H, W) or (H, W, 3) RGB.  The pixels are views of one array for each part
        of the split and cannot be written to.

    Raises:
        DatasetError: files are missing, cut off, changed or another set's (lists them and says where to get them), a
            package is missing, or the split reaches beyond the images, or names one twice.
    """
    files, report = SETS[dataset], DatasetReport(f"{dataset} in {root}")
    report.advice = files.advice(root)
    ranges = parse_split(split, files.parts)
    parts = tuple(dict.fromkeys(entry.name for entry in ranges))
    for file, md5 in dict.fromkeys(entry for part in parts for entry in files.files(root, part)):
        if not file.is_file():
            report.add("data file missing", file)
        elif damage := _damage(file, md5):
            report.add("data file damaged", file, damage)
        elif not md5 and (other := other_set(dataset, file)):
            report.add("data file of another set", file, f"its md5 sum is of {other}")
    report.settle(logger)
    arrays = {part: _read(dataset, root, part, report) for part in parts}
    dicts = [record for entry in ranges for record in _records(dataset, entry, arrays[entry.name])]
    if len({record["image_id"] for record in dicts}) < len(dicts):
        raise DatasetError(f"{dataset}: the split '{split}' has some images twice: its ranges overlap.")
    return dicts, arrays[parts[0]].classes


def _damage(file: Path, md5: str) -> str:
    try:
        return "" if not md5 or check_integrity(file, md5) else f"its md5 should be {md5}"
    except OSError as error:
        return str(error)


def _read(dataset: str, root: Path, part: str, report: DatasetReport) -> Arrays:
    try:
        found = SETS[dataset].read(root, part)
    except DatasetError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        report.add("data file damaged", part, str(error))
        report.settle(logger)
        raise  # not reached: what was added is fatal
    if len(found.pixels) != len(found.labels):
        report.add("data file damaged", part, f"{len(found.pixels)} images, {len(found.labels)} labels")
    elif len(found.labels) and max(found.labels) >= len(found.classes):
        report.add(
            "data file damaged", part, f"the label {max(found.labels)} of {len(found.classes)} classes"
        )
    report.settle(logger)
    return found


def _records(dataset: str, entry: SplitRange, arrays: Arrays) -> Iterator[dict[str, Any]]:
    try:
        numbers = entry.of(len(arrays.pixels))
    except ValueError as error:
        raise DatasetError(f"{dataset}: the split {error}.") from error
    pixels = np.ascontiguousarray(arrays.pixels[numbers.start : numbers.stop])
    pixels.setflags(write=False)
    for number, image in zip(numbers, pixels, strict=True):
        yield {"image_id": f"{entry.name}/{number:05d}", "label": int(arrays.labels[number]), "pixels": image}
