"""Measures each teacher once: its results, and of a classifier what it predicts for each test image."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from torch import nn

from ..distiller import Distiller
from ..files import write_json
from ..pixels import pixels_of
from ..targets import class_count
from .agreement import Predictions, Signature, predictions_file, signed

__all__ = ["TEACHERS_FILE", "measure_teachers"]

logger = logging.getLogger(__name__)

TEACHERS_FILE = "teachers.json"


def measure_teachers(
    model: nn.Module,
    evaluate: Callable[[Callable[..., Any]], dict[str, Any]],
    folder: str | Path,
    *,
    data: str = "",
    compared_on: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Return the results of the teachers of a distiller; measure those that are not known.

    What is known is in ``teachers.json`` in the run's folder: the results of the same weights, which want the same
    pixels (`pixels_of`; PIXEL_MEAN and PIXEL_STD are no part of the weights), on the same data. Where
    students are compared with it, a teacher's predictions must also be in ``inference/`` (`Predictions`), or it is
    measured again. A teacher of other classes than the student is not measured, and its predictions are deleted.

    All processes must call it.

    Args:
        model: any other than a distiller has no teachers.
        evaluate: ``(callable model) -> results``.
        folder: the run's output folder.
        data: stands for what is measured on.
        compared_on: the test sets on which agreement with the teacher is measured.

    Returns:
        Teacher -> results; on processes other than the first, those that it measured just now are empty.
    """
    teachers = model.teachers if isinstance(model, Distiller) else {}
    folder, results = Path(folder), {}
    known: dict[str, Any] = comm.all_gather(_known(folder))[0]
    for name, teacher in teachers.items():
        if class_count(teacher.model) != class_count(model.student):  # type: ignore[arg-type]
            logger.info("teacher %s has other classes than the data: it is not measured", name)
            _forget(folder, name, compared_on)
            continue
        made_from = {"fingerprint": teacher.fingerprint, "pixels": pixels_of(teacher.model), "data": data}
        by = Signature(name, json.dumps(made_from))
        there = comm.all_gather(_has_predictions(folder, by, compared_on))[0]
        entry = known.get(name)
        if not there or entry is None or any(entry.get(k) != v for k, v in made_from.items()):
            logger.info("measuring teacher %s (weights %s) once", name, teacher.fingerprint)
            predict = signed(teacher.predict, by) if compared_on else teacher.predict
            entry = known[name] = {**made_from, "results": evaluate(predict)}
        results[name] = entry["results"]
    if known and comm.is_main_process():
        write_json(folder / TEACHERS_FILE, known)
    return results


def _known(folder: Path) -> dict[str, Any]:
    file = folder / TEACHERS_FILE
    return json.loads(file.read_text()) if file.is_file() else {}


def _has_predictions(folder: Path, by: Signature, sets: Sequence[str]) -> bool:
    found = (Predictions.read(folder / "inference", by.teacher, name) for name in sets)
    return all(kept is not None and kept.made_from == by.made_from for kept in found)


def _forget(folder: Path, teacher: str, sets: Sequence[str]) -> None:
    if comm.is_main_process():
        for name in sets:
            predictions_file(folder / "inference", teacher, name).unlink(missing_ok=True)
