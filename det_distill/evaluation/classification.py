"""How many images a classifier gets right, of which classes, and how sure it is."""

from __future__ import annotations

import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from ..files import write_json
from .agreement import SIGNATURE, Predictions, Signature, predictions_file, set_file
from .calibration import expected_calibration_error

__all__ = ["ClassificationEvaluator", "ranks"]

logger = logging.getLogger(__name__)

_LOGGED_CLASSES = 100


class _Seen(NamedTuple):
    """What is kept of an image."""

    label: int
    predicted: int  # -1: a logit is not finite
    rank: int
    cost: float
    confidence: float


class ClassificationEvaluator(DatasetEvaluator):
    """Accuracy, calibration and cross entropy over all images of all processes.

    Returns ``{"classification": {...}}`` with

    * ``top1``, ``top5``: percent of the images whose class is the most probable one, or among the five most probable
      ones (only with more than five classes);
    * ``nll``: the mean cross entropy, in nats;
    * ``ece``: the expected calibration error in percent (`calibration`, with 15 bins);
    * ``top1-<class>``: ``top1`` of the images of one class, NaN for one without an image; only with up to 100 classes.
      A "/" in the class's name is a "-" here, since TensorBoard takes it for a group;
    * ``top1-mean``: the mean of these over the classes that have images (also of more than 100): a class counts
      the same however many images it has. It takes the place of a class of the name "mean";
    * ``agreement-<teacher>``: percent of the images for which this teacher predicts the same class (`agreement`); only
      for teachers whose predictions for these images are in `output_dir`.

    An image with a logit that is not finite counts as wrong, agrees with nothing, and makes ``nll`` and ``ece`` NaN. An
    image that comes twice counts once, as it came last; an image that never comes does not count.

    With `output_dir` and a data set, `evaluate` writes ``classification_<dataset>.json``: the results, and for every
    class its images, its top-1 accuracy and as what its images were taken; or, if it is a teacher that is measured
    (`agreement.signed`), ``teacher_<teacher>_<dataset>.json``: what it predicts.

    Args:
        dataset_name: a data set with the class names ``thing_classes`` in its metadata; classes without a name have
            their number, and it follows a name that several have.
        output_dir: the folder of the files; None: none is read or written.
        teachers: names of the teachers that the student is compared with.
    """

    def __init__(
        self, dataset_name: str = "", *, output_dir: str | Path | None = None, teachers: Sequence[str] = ()
    ) -> None:
        self._name, self._teachers = dataset_name, tuple(teachers)
        self._folder = None if output_dir is None or not dataset_name else Path(output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._seen: dict[Any, _Seen] = {}
        self._classes = 0
        self._by: Signature | None = None

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Take one batch; five numbers of each image are kept.

        Args:
            inputs: dicts with ``label`` and ``image_id``.
            outputs: dicts with ``logits``, (K,), of any float type, in the same order.
        """
        logits = torch.stack([output["logits"].detach() for output in outputs]).cpu().double()
        labels = torch.tensor([int(sample["label"]) for sample in inputs])
        self._classes, self._by = logits.shape[1], outputs[0].get(SIGNATURE)
        columns = (
            labels,
            logits.argmax(1).where(logits.isfinite().all(1), -1),
            ranks(logits, labels),
            F.cross_entropy(logits, labels, reduction="none"),
            logits.softmax(1).amax(1),
        )
        for sample, *row in zip(inputs, *(column.tolist() for column in columns), strict=True):
            self._seen[sample["image_id"]] = _Seen(*row)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather all processes' images; return the results on the main process, {} on the others and without any."""
        gathered = comm.gather((self._seen, self._classes, self._by), dst=0)
        if not comm.is_main_process():
            return {}
        seen: dict[Any, _Seen] = {k: v for part, _, _ in gathered for k, v in part.items()}
        if not seen:
            return {}
        classes = max(number for _, number, _ in gathered)
        by: Signature | None = next((by for _, _, by in gathered if by is not None), None)
        names = self._class_names(classes)
        found = _accuracies(seen.values(), names)
        said = {str(image): entry.predicted for image, entry in seen.items()}
        if self._folder is None:
            return OrderedDict(classification=found)
        if by is not None:
            Predictions(by.teacher, by.made_from, self._name, classes, said).write(self._folder)
            return OrderedDict(classification=found)
        found.update(self._agreements(self._folder, said, classes))
        content = {
            "dataset": self._name,
            "images": len(seen),
            "results": {k: _number(v) for k, v in found.items() if k == "top1-mean" or k[:5] != "top1-"},
            "classes": _class_rows(_confusions(seen.values(), classes), names),
        }
        write_json(set_file(self._folder, "classification", self._name), content)
        return OrderedDict(classification=found)

    def _class_names(self, classes: int) -> list[str]:
        known = MetadataCatalog.get(self._name).get("thing_classes", None) if self._name else None
        names = [str(name) for name in known or ()][:classes]
        names += [str(number) for number in range(len(names), classes)]
        return _told_apart(names)

    def _agreements(self, folder: Path, said: Mapping[str, int], classes: int) -> dict[str, float]:
        found = {}
        for teacher in self._teachers:
            file = predictions_file(folder, teacher, self._name)
            kept = Predictions.read(folder, teacher, self._name)
            if kept is None:
                logger.info("agreement with teacher %s is not known: %s does not tell it", teacher, file)
            elif kept.classes != classes:
                logger.info("agreement with teacher %s is not known: it has other classes", teacher)
            elif (percent := kept.agreement(said)) is None:
                logger.warning("agreement with teacher %s is not known: %s lacks some images", teacher, file)
            else:
                found[f"agreement-{teacher}"] = percent
                logger.info("agreement with teacher %s on %s: %.2f %%", teacher, self._name, percent)
        return found


def _told_apart(names: Sequence[str]) -> list[str]:
    """The names, each followed by its number if several are the same."""
    times = Counter(names)
    return [name if times[name] == 1 else f"{name}-{number}" for number, name in enumerate(names)]


def _accuracies(seen: Collection[_Seen], names: Sequence[str]) -> dict[str, float]:
    """The results of some images, but for agreements."""
    _, _, rank, cost, confidence = torch.tensor(list(seen), dtype=torch.float64).unbind(1)
    found = {"top1": _percent(rank < 1)}
    if len(names) > 5:
        found["top5"] = _percent(rank < 5)
    found["nll"] = float(cost.mean())
    found["ece"] = 100 * expected_calibration_error(confidence, rank < 1)
    counts = _confusions(seen, len(names))
    own = 100 * counts.diagonal().double() / counts.sum(1)
    if len(names) <= _LOGGED_CLASSES:
        logged = _told_apart([name.replace("/", "-") for name in names])
        found.update({f"top1-{name}": value for name, value in zip(logged, own.tolist(), strict=True)})
    found["top1-mean"] = float(own.nanmean())
    return found


def _confusions(seen: Collection[_Seen], classes: int) -> Tensor:
    """How many images of each class (rows, K) were taken for which (columns, K, and a last one for no class)."""
    label, predicted = torch.tensor([entry[:2] for entry in seen]).unbind(1)
    columns = classes + 1
    pairs = label * columns + predicted.where(predicted >= 0, classes)
    return torch.bincount(pairs, minlength=classes * columns).view(classes, columns)


def _class_rows(counts: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """What the file says of each class; of what its images were taken for, the most frequent comes first."""
    rows = []
    for number, (name, row) in enumerate(zip(names, counts.tolist(), strict=True)):
        order = sorted((c for c in range(len(names)) if row[c]), key=lambda c: -row[c])
        top1 = 100 * row[number] / sum(row) if any(row) else None
        taken_for = {names[c]: row[c] for c in order}
        rows.append({"class": name, "images": sum(row), "top1": top1, "taken_for": taken_for})
    return rows


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before each image's own: 0 if it is the most probable one.

    Of equal logits the one with the lower number comes first. With a logit that is not finite the rank is K.

    Args:
        logits: (B, K).
        labels: int64 (B,).
    """
    own = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1])[None] < labels[:, None]
    before = (logits > own) | ((logits == own) & lower)
    return before.sum(1).where(logits.isfinite().all(1), logits.shape[1])


def _percent(right: Tensor) -> float:
    return 100 * float(right.double().mean())


def _number(value: float) -> float | None:
    """NaN is no JSON."""
    return value if math.isfinite(value) else None
