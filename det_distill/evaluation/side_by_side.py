"""One table of a detector's average precision by VOC rules and by COCO rules, for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from det_distill.evaluation.coco import CocoPrecision
from det_distill.evaluation.columns import GroundTruth
from det_distill.evaluation.voc import VocPrecision

__all__ = ["mean_of_classes", "side_by_side"]

_COLUMNS = ("AP50 11-point", "AP50", "AP75", "AP", "AP50", "AP75", "AP")
_WIDTH = 7


def side_by_side(
    name: str,
    classes: Sequence[str],
    truth: GroundTruth,
    voc: VocPrecision,
    coco: CocoPrecision,
    *,
    count_difficult: bool = False,
) -> str:
    """Return the table: a row per class and the mean over the classes that have objects, in percent.

    Args:
        name: of the dataset.
        classes: C names.
        truth: the objects.
        voc: (10, C) precisions at overlaps 0.50 to 0.95.
        coco: the precisions by COCO rules.
        count_difficult: whether VOC rules counted objects marked difficult.
    """
    difficult = np.bincount(truth.category[truth.difficult & ~truth.crowd], minlength=len(classes))
    objects = np.bincount(truth.category[~truth.crowd], minlength=len(classes))
    by_voc = np.stack([voc.eleven_point[0], voc.area[0], voc.area[5], voc.area.mean(axis=0)], axis=1)
    by_coco = np.array(
        [[coco.average(category=c, overlap=o) for o in (0, 5, None)] for c in range(len(classes))]
    )
    values = 100 * np.concatenate([by_voc, by_coco.reshape(-1, 3)], axis=1)
    mean = [mean_of_classes(column) for column in values.T]
    width = max(map(len, ("class", "mean", *classes)))
    lines = [
        f"{name}: average precision in percent on {len(truth.sizes)} images; COCO rules by {coco.library}.",
        f"VOC rules {'count' if count_difficult else 'ignore'} objects marked difficult, COCO rules count them.",
        f"{'':{width}} {'':18} | {'VOC rules':<{2 * _WIDTH + 22}} | COCO rules",
        f"{'class':{width}} {'objects':>8}{'difficult':>10} | {_heads(_COLUMNS[:4])} | {_heads(_COLUMNS[4:])}",
    ]
    counts = zip((*objects, objects.sum()), (*difficult, difficult.sum()), strict=True)
    for label, (count, hard), row in zip((*classes, "mean"), counts, (*values, mean), strict=True):
        numbers = f"{_numbers(row[:4], _COLUMNS[:4])} | {_numbers(row[4:], _COLUMNS[4:])}"
        lines.append(f"{label:{width}} {count:8}{hard:10} | {numbers}")
    return "\n".join(lines)


def mean_of_classes(values: NDArray[np.float64]) -> float:
    """The mean over what is not NaN, classes that have objects; NaN if there is none."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _heads(names: Sequence[str]) -> str:
    return " ".join(f"{name:>{_WIDTH}}" for name in names)


def _numbers(values: Sequence[float] | NDArray[np.float64], names: Sequence[str]) -> str:
    cells = ("-" if np.isnan(value) else f"{value:.2f}" for value in values)
    return " ".join(f"{cell:>{max(_WIDTH, len(name))}}" for cell, name in zip(cells, names, strict=True))
