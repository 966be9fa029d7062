"""What a graph's file says of itself, so that it can be used by who has nothing else."""

from __future__ import annotations

import json
from typing import Any

from detectron2.config import CfgNode

from ...classification import ImageClassifier
from ..formats import ExportRequest

__all__ = ["KEY", "NAME", "facts", "read_facts", "written"]

KEY = "det_distill"
"""The key of the JSON text in ONNX ``metadata_props``; the name of the extra file in a ``.ts`` or ``.pt2``."""

NAME = f"{KEY}.json"
"""Of the extra file in a ``.pt2``; torch wants a name with an end there."""


def facts(request: ExportRequest, score_threshold: float, **more: Any) -> dict[str, Any]:
    """Return ``kind``, ``architecture``, ``classes`` and how the image is prepared.

    Of both kinds: ``input_format`` (RGB, BGR or L), ``pixel_mean`` and ``pixel_std`` (inside the graph already). Of a
    detector: ``min_size_test`` and ``max_size_test`` (the shorter side is scaled to the first, unless the longer gets
    longer than the second), ``score_threshold``. Of a classifier: ``resize`` (of the shorter side, 0: none) and
    ``crop`` (the centre's, 0: none).
    """
    plain = request.plain
    said: dict[str, Any] = {
        "kind": "classifier" if isinstance(request.model, ImageClassifier) else "detector",
        "architecture": type(request.model).__name__,
        "classes": list(request.classes),
        "input_format": plain.INPUT.FORMAT,
        "pixel_mean": list(plain.MODEL.PIXEL_MEAN),
        "pixel_std": list(plain.MODEL.PIXEL_STD),
    }
    if said["kind"] == "classifier":
        node = plain.INPUT.get("CLASSIFICATION", CfgNode())
        said |= {"resize": node.get("RESIZE", 0), "crop": node.get("CROP", 0)}
    else:
        said |= {
            "min_size_test": plain.INPUT.MIN_SIZE_TEST,
            "max_size_test": plain.INPUT.MAX_SIZE_TEST,
            "score_threshold": score_threshold,
        }
    return said | more


def written(said: dict[str, Any]) -> str:
    """Return the text that goes into the file."""
    return json.dumps(said)


def read_facts(text: str | bytes | None, file: str) -> dict[str, Any]:
    """Return what a file says.

    Raises:
        ValueError: it says nothing, or not in this form.
    """
    try:
        said = json.loads(text or "")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or said.get("kind") not in ("detector", "classifier", "backbone"):
        raise ValueError(
            f"{file} does not say what it is (metadata {KEY!r}): it was not written by det_distill's export"
        )
    return said
