"""What the teachers find on the test sets, beside the student: a teacher that knows less has nothing to teach."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from ..evaluation.ground_truth import evaluation_dicts
from ..evaluation.measuring import last_weights, load_measured, measure_model
from ..targets import class_count
from .candidates import Candidate
from .findings import TROUBLES, Finding, error_text

__all__ = ["check_precision"]

_MEASURES = {
    "bbox/AP": "AP",
    "bbox/AP50": "AP50",
    "voc/AP50": "AP50 (VOC)",
    "classification/top1": "top-1",
    "retrieval/R1": "R@1",
    "retrieval/mAP": "mAP",
}
"""What is shown, where it is there; the first decides which network is better."""


def check_precision(
    cfg: CfgNode, student: nn.Module, teachers: Sequence[Candidate], images: int | None, weights: str
) -> Iterator[Finding]:
    """Measure the student, if it is trained, then the teachers that have its classes and all of their weights.

    Args:
        cfg: the config; without test sets nothing is measured.
        student: an untrained student, which says what pixels it wants.
        teachers: those that could be built.
        images: at most so many of each set; None: all.
        weights: see `check_teachers`.
    """
    with tempfile.TemporaryDirectory() as folder, _limited(cfg, images) as limited:
        for data in limited.DATASETS.TEST:
            own = limited.clone()
            own.DATASETS.TEST = (data,)
            own.freeze()
            yield from _check_set(own, student, teachers, weights, Path(folder))
    if not cfg.DATASETS.TEST:
        yield Finding("warning", "teachers", "DATASETS.TEST is empty, so it is not known what they can do")


def _check_set(
    cfg: CfgNode, student: nn.Module, teachers: Sequence[Candidate], weights: str, folder: Path
) -> Iterator[Finding]:
    data = cfg.DATASETS.TEST[0]
    best: Mapping[str, float] = {}
    try:
        file = weights or last_weights(cfg)
        best = measure_model(cfg, load_measured(cfg, file), "student", folder)[0].results
        yield Finding("ok", "student", f"{_shown(best)} on {data} ({file})")
    except FileNotFoundError as error:
        if weights:
            yield Finding("error", "student", f"cannot be measured: {error_text(error)}")
        else:
            yield Finding("ok", "student", "not trained yet, so the teachers are not compared with it")
    except (
        TROUBLES
    ) as error:  # what an earlier run left in OUTPUT_DIR does not keep a training from beginning
        level: Literal["error", "warning"] = "error" if weights else "warning"
        yield Finding(level, "student", f"cannot be measured: {error_text(error)}")
    for candidate in teachers:
        about = f"teacher {candidate.name}"
        if candidate.teacher is None or not candidate.trained:
            continue
        if class_count(candidate.teacher.model) != class_count(student):
            yield Finding("ok", about, f"not measured on {data}: it has other classes")
            continue
        try:
            candidate.teacher.bind(student, ())
            found = measure_model(cfg, candidate.teacher.predict, candidate.name, folder)[0].results
        except TROUBLES as error:
            yield Finding("error", about, f"cannot be run on {data}: {error_text(error)}")
            continue
        yield _verdict(about, data, found, best)


def _verdict(about: str, data: str, found: Mapping[str, float], student: Mapping[str, float]) -> Finding:
    text = f"{_shown(found)} on {data}"
    key = next((k for k in _MEASURES if k in found), "")
    value, other = found.get(key, math.nan), student.get(key, math.nan)
    if value == 0:
        return Finding(
            "warning", about, f"{text}: it finds nothing right; are these its classes and its pixels?"
        )
    if value <= other:
        return Finding("warning", about, f"{text}: no better than the student is now")
    return Finding("ok", about, text)


def _shown(results: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {results[k]:.1f}" for k, name in _MEASURES.items() if k in results)


@contextmanager
def _limited(cfg: CfgNode, images: int | None) -> Iterator[CfgNode]:
    """A config whose test sets have at most so many images, taken evenly; they are registered for the block."""
    own = cfg.clone()
    own.defrost()
    names = {}
    for name in cfg.DATASETS.TEST if images else ():
        dicts = evaluation_dicts(name)
        if images is None or len(dicts) <= images:
            continue
        some = [dicts[i * len(dicts) // images] for i in range(images)]
        names[name] = f"{name} ({images} of {len(dicts)} images)"
        DatasetCatalog.register(names[name], lambda some=some: some)
        metadata = MetadataCatalog.get(name)
        known = {k: metadata.get(k) for k in ("thing_classes", "thing_dataset_id_to_contiguous_id")}
        MetadataCatalog.get(names[name]).set(**{k: v for k, v in known.items() if v is not None})
    own.DATASETS.TEST = tuple(names.get(name, name) for name in cfg.DATASETS.TEST)
    try:
        yield own
    finally:
        for name in names.values():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
