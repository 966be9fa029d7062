"""What each exported file finds on the test data: its AP or accuracy beside that of the student in training's form."""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from PIL import Image
from torch import nn

from ..evaluation.ground_truth import evaluation_dicts
from ..tasks import task_of
from .check import ExportError
from .formats import Written
from .tables import console_table, markdown_table

__all__ = ["STUDENT", "FileScore", "Measurement", "check_test_data", "measure_files"]

STUDENT = "the student itself"

_SCORES: Mapping[str, Mapping[str, str]] = {
    "bbox": {"bbox/AP": "AP", "bbox/AP50": "AP50", "voc/AP50": "AP50 (VOC)"},
    "classification": {"classification/top1": "top-1", "classification/top5": "top-5"},
}
"""What the evaluator returns -> heading; the first of each is what files are compared by."""

_LEAST = 1e-30
"""A probability below it is taken for it, so that its logarithm is finite."""


@dataclass(frozen=True)
class FileScore:
    """One row: a file, or the student as it was loaded from its run.

    Attributes:
        file: its name, or `STUDENT`.
        megabytes: 1e6 bytes; NaN for the student itself.
        milliseconds: the median of one image; of a file with the resizing of the image, of the student without.
        scores: heading -> percent.
    """

    file: str
    megabytes: float
    milliseconds: float
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Measurement:
    """All rows, the student itself first.

    Attributes:
        rows: one for each model.
        data: the name of the test set.
        images: how many of its images were taken.
        whole: whether these are all.
        threads: CPU threads that torch used.
    """

    rows: tuple[FileScore, ...]
    data: str
    images: int
    whole: bool
    threads: int

    @property
    def student(self) -> Mapping[str, float]:
        """The student's own scores."""
        return self.rows[0].scores

    def cells(self) -> list[list[str]]:
        """Return the header and a line for each row."""
        headings = list(self.student)
        main = headings[0]
        lines = [["file", "MB", "ms/image", *headings, f"{main} - student's"]]
        for row in self.rows:
            change = row.scores[main] - self.student[main]
            numbers = [_number(row.scores[heading], ".2f") for heading in headings]
            own = "" if row.file == STUDENT else _number(change, "+.2f")
            lines.append([row.file, _number(row.megabytes, ".2f"), f"{row.milliseconds:.1f}", *numbers, own])
        return lines

    def note(self) -> str:
        """Return what the table was measured on."""
        part = f"all {self.images}" if self.whole else f"the first {self.images}"
        rules = (
            " AP by COCO rules (overlap 0.50 to 0.95), AP50 (VOC) by VOC rules."
            if "AP" in self.student
            else ""
        )
        return (
            f"In percent, on {part} images of {self.data}.{rules} ms/image: median of one image at a time on the CPU "
            f"({self.threads} thread{'s' * (self.threads != 1)}), of a file with resizing the image, of the student "
            "itself without."
        )

    def text(self) -> str:
        """Return the table and its note for a console."""
        return f"{console_table(self.cells())}\n{self.note()}"

    def markdown(self) -> str:
        """Return the table and its note for Markdown."""
        return f"{markdown_table(self.cells())}\n\n{self.note()}"


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"


def check_test_data(cfg: CfgNode) -> None:
    """Check that there is something to measure on.

    Raises:
        ValueError: ``DATASETS.TEST`` is empty, its files cannot be used, or the model is not measured by what it says
            of single images.
    """
    if task_of(cfg).open_set:
        raise ValueError(
            "--evaluate measures detectors and classifiers; an embedding is measured by tools/train_net.py --eval-only"
        )
    if not cfg.DATASETS.TEST:
        raise ValueError("--evaluate needs test data: DATASETS.TEST of the config is empty")
    evaluation_dicts(cfg.DATASETS.TEST[0])


def measure_files(
    cfg: CfgNode,
    model: nn.Module,
    folder: Path,
    written: list[Written],
    count: int = 0,
    say: Callable[[str], None] = print,
) -> Measurement:
    """Measure the student and every file that detects on images of the first test set.

    The student goes the way of every evaluation of a training; a file goes through `load_predictor`, as its user does.

    Args:
        cfg: the run's config.
        model: the student in eval mode.
        folder: holds the files and their ``config.yaml``.
        written: the files.
        count: take only so many images, the first; 0: all.
        say: called with a line before each file.

    Raises:
        ExportError: a file cannot be opened, or fails on an image.
    """
    from ..predictors import load_predictor  # which is needed only here

    with _first_of(cfg.DATASETS.TEST[0], count) as (name, records, whole):
        say(f"Measuring {STUDENT} on {len(records)} images ...")
        rows = [FileScore(STUDENT, float("nan"), *_measured(cfg, name, _by_model(cfg, model, name)))]
        for file in written:
            if not file.detects:
                continue
            say(f"Measuring {file.file} ...")
            try:
                predictor = load_predictor(str(folder / file.file))
                found = _measured(cfg, name, _by_file(predictor, records))
            except (RuntimeError, ValueError, OSError, ImportError) as error:
                raise ExportError(f"{file.file} cannot predict: {error}") from error
            rows.append(FileScore(file.file, (folder / file.file).stat().st_size / 1e6, *found))
    return Measurement(tuple(rows), cfg.DATASETS.TEST[0], len(records), whole, torch.get_num_threads())


_Found = Iterator[tuple[dict[str, Any], dict[str, Any], float]]
"""Sample, what the model says of it, and the seconds that it took."""


def _measured(cfg: CfgNode, name: str, found: _Found) -> tuple[float, dict[str, float]]:
    """The median of milliseconds, and the scores."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        own = cfg.clone()
        own.defrost()
        own.OUTPUT_DIR = folder  # the run's own files stay as they are
        own.DISTILL.EVAL_TEACHERS = False
        evaluator = task_of(cfg).evaluator(own, name)
        evaluator.reset()
        for sample, output, seconds in found:
            evaluator.process([sample], [output])
            times.append(seconds)
        results: Mapping[str, Mapping[str, float]] = evaluator.evaluate() or {}
    flat = {f"{kind}/{key}": value for kind, values in results.items() for key, value in values.items()}
    headings = next((_SCORES[kind] for kind in _SCORES if kind in results), {})
    scores = {heading: float(flat[key]) for key, heading in headings.items() if key in flat}
    return 1000 * statistics.median(times), scores


@torch.no_grad()
def _by_model(cfg: CfgNode, model: nn.Module, name: str) -> _Found:
    own = cfg.clone()
    own.defrost()
    own.DATALOADER.NUM_WORKERS, own.INPUT.CLASSIFICATION.LOADER = 0, "workers"
    for batch in task_of(cfg).test_loader(own, name):
        for sample in batch:
            start = perf_counter()
            (output,) = model([sample])
            yield sample, output, perf_counter() - start


def _by_file(predictor: Any, records: list[dict[str, Any]]) -> _Found:
    for record in records:
        pixels = _pixels(record)
        start = perf_counter()
        found = predictor(pixels)
        seconds = perf_counter() - start
        if predictor.kind == "detector":
            yield record, {"instances": found}, seconds
        else:
            yield record, {"logits": torch.as_tensor(found).clamp_min(_LEAST).log()}, seconds


def _pixels(record: Mapping[str, Any]) -> np.ndarray:
    """(H, W, 3) uint8, RGB."""
    if "pixels" in record:
        return np.array(Image.fromarray(record["pixels"]).convert("RGB"))
    return np.ascontiguousarray(read_image(record["file_name"], format="RGB"))


@contextmanager
def _first_of(name: str, count: int) -> Iterator[tuple[str, list[dict[str, Any]], bool]]:
    """A data set of the first images of another one, under a name of its own while it is needed."""
    records = evaluation_dicts(name)
    whole = not 0 < count < len(records)
    records = records if whole else records[:count]
    part, metadata = f"{name} (first {len(records)}, of an export)", MetadataCatalog.get(name)
    DatasetCatalog.register(part, lambda: copy.deepcopy(records))
    own = MetadataCatalog.get(part)
    for key in ("thing_classes", "thing_dataset_id_to_contiguous_id"):
        if metadata.get(key) is not None:
            own.set(**{key: metadata.get(key)})
    try:
        yield part, records, whole
    finally:
        DatasetCatalog.remove(part)
        MetadataCatalog.remove(part)
