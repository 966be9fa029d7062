"""On how many test images student and teacher name the same class.

Each teacher is run once; the class that it predicts for each test image is kept in a file, which every evaluation of a
student is compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import write_json

__all__ = ["SIGNATURE", "Predictions", "Signature", "predictions_file", "set_file", "signed"]

SIGNATURE = "predicted_by"
"""The key under which an output says whose it is, if it is a teacher's."""


@dataclass(frozen=True)
class Signature:
    """Which teacher made an output.

    Attributes:
        teacher: its name.
        made_from: identifies its weights, its pixels and what it is measured on: other predictions have another one.
    """

    teacher: str
    made_from: str


def signed(predict: Callable[[Any], Sequence[Mapping[str, Any]]], by: Signature) -> Callable[[Any], Any]:
    """Return `predict` with outputs that say whose they are, so that the evaluator keeps them in a file."""
    return lambda batch: [{**output, SIGNATURE: by} for output in predict(batch)]


@dataclass(frozen=True)
class Predictions:
    """The class that a teacher predicts for each image of a test set.

    Attributes:
        teacher, made_from: see `Signature`.
        dataset: the test set's name.
        classes: the number of classes that it chooses from.
        predicted: image_id, as a text -> number of the class; -1 where its logits were not finite.
    """

    teacher: str
    made_from: str
    dataset: str
    classes: int
    predicted: Mapping[str, int]

    def write(self, folder: Path) -> None:
        """Write the file of this teacher and test set (`predictions_file`)."""
        write_json(predictions_file(folder, self.teacher, self.dataset), asdict(self), indent=None)

    @classmethod
    def read(cls, folder: Path, teacher: str, dataset: str) -> Predictions | None:
        """Return what the file of a teacher and a test set says; None: there is none, or it cannot be read."""
        try:
            text = predictions_file(folder, teacher, dataset).read_text(encoding="utf-8")
            found = cls(**json.loads(text))
        except (OSError, ValueError, TypeError):
            return None
        return found if (found.teacher, found.dataset) == (teacher, dataset) else None

    def agreement(self, student: Mapping[str, int]) -> float | None:
        """Return the percent of images for which a student predicts the same class; None: an image is missing here.

        Args:
            student: image_id, as a text -> number of the class, negative for none, which agrees with nothing.
        """
        if not student or not student.keys() <= self.predicted.keys():
            return None
        same = sum(own >= 0 and own == self.predicted[image] for image, own in student.items())
        return 100 * same / len(student)


def predictions_file(folder: Path, teacher: str, dataset: str) -> Path:
    """Return where a teacher's predictions for a test set are kept: ``<folder>/teacher_<teacher>_<dataset>.json``."""
    return set_file(folder, f"teacher_{teacher}", dataset)


def set_file(folder: Path, kind: str, dataset: str) -> Path:
    """Return ``<folder>/<kind>_<dataset>.json``; a slash in a name does not make a folder."""
    return folder / f"{kind}_{dataset}.json".replace("/", "_").replace("\\", "_")
