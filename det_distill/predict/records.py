"""What a network says of an image, in the words of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.structures import Instances
from torch import Tensor

from ..predictors import Predictor

__all__ = ["above", "describe", "record"]

_BEST = 5


def above(found: Instances | Tensor, threshold: float) -> Instances | Tensor:
    """Return the detections with a score of `threshold` or more; a classifier's probabilities stay as they are."""
    return found[found.scores >= threshold] if isinstance(found, Instances) else found


def record(found: Instances | Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """Return what was found in one image, best first.

    Of a detector ``{"detections": [{"class", "class_id", "score", "box"}, ...]}`` with the box as x0, y0, x1, y1 in
    pixels, to a thousandth; of a classifier ``{"classes": [{"class", "class_id", "probability"}, ...]}``, the best 5.
    Scores and probabilities have six digits.
    """
    if not isinstance(found, Instances):
        best = found.topk(min(_BEST, len(found)))
        pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return {"classes": [{**_named(i, classes), "probability": round(p, 6)} for p, i in pairs]}
    order = found.scores.argsort(descending=True, stable=True)
    rows = zip(
        found.pred_classes[order].tolist(),
        found.scores[order].tolist(),
        found.pred_boxes.tensor[order].tolist(),
        strict=True,
    )
    return {
        "detections": [
            {**_named(i, classes), "score": round(s, 6), "box": [round(x, 3) for x in box]}
            for i, s, box in rows
        ]
    }


def _named(index: int, classes: Sequence[str]) -> dict[str, Any]:
    return {"class": classes[index], "class_id": index}


def describe(predictor: Predictor, sha256: str, threshold: float) -> dict[str, Any]:
    """Return what a file of predictions says of itself and of the network that made them."""
    about: dict[str, Any] = {
        "content": "predictions of det_distill",
        "version": 1,
        "model": {
            "file": str(predictor.file),
            "sha256": sha256,
            "architecture": predictor.architecture,
            "kind": predictor.kind,
        },
        "classes": list(predictor.classes),
    }
    if predictor.kind == "detector":
        about["score_threshold"] = max(threshold, predictor.score_threshold)
        about["box"] = "x0, y0, x1, y1 in pixels of the upright image"
    return about
