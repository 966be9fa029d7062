"""A written graph has to give what detectron2's model gives, on every image of a request and at sizes of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...classification import ImageClassifier
from ..check import DoesNotFit, ExportError
from ..formats import ExportRequest
from .matching import Found, difference, disagreement

__all__ = ["compare_exactly", "compare_roughly", "limits", "of_model", "sizes_of_a_graph"]

SIZES = ((96, 131), (131, 96), (160, 160))
"""Height and width of noise that every graph is compared on besides: wide, tall, square, two not multiples of 32."""


def of_model(model: Any, image: Tensor) -> Found:
    """Return what detectron2's model says of one image, by the names of a graph's outputs."""
    with torch.no_grad():
        found = model([{"image": image}])[0]
    if isinstance(model, ImageClassifier):
        return {"logits": found["logits"]}
    seen = found["instances"]
    return {"boxes": seen.pred_boxes.tensor, "scores": seen.scores, "classes": seen.pred_classes}


def limits(model: Any) -> tuple[float, int]:
    """Return a detector's score threshold and how many detections it returns at most; (0, -1) of a classifier."""
    if isinstance(model, ImageClassifier):
        return 0.0, -1
    if hasattr(model, "roi_heads"):
        predictor = model.roi_heads.box_predictor
        return float(predictor.test_score_thresh), int(predictor.test_topk_per_image)
    return float(model.test_score_thresh), int(model.max_detections_per_image)


def sizes_of_a_graph(request: ExportRequest, smallest: int = 0) -> Iterator[Tensor]:
    """Yield the request's images and, where the network takes any size, noise; none with a side below `smallest`."""
    images = list(request.images)
    if not isinstance(request.model, ImageClassifier):
        noise = torch.Generator().manual_seed(0)
        channels = len(request.model.pixel_mean)  # type: ignore[arg-type]
        images += [
            torch.randint(0, 256, (channels, *size), generator=noise, dtype=torch.uint8) for size in SIZES
        ]
    return (image for image in images if min(image.shape[1:]) >= smallest)


def compare_exactly(
    request: ExportRequest,
    path: Path,
    run: Callable[[Tensor], Found],
    tolerance: float,
    *,
    model: nn.Module | None = None,
    smallest: int = 0,
) -> float:
    """Return the largest difference between a graph and the model, see `difference`.

    Args:
        request: what was exported.
        path: the file, for its name.
        run: maps a float32 image to the graph's outputs.
        tolerance: what is accepted.
        model: what to compare with; default: the request's.
        smallest: side of the smallest images that the graph takes.

    Raises:
        ExportError: the graph stops at an image, or the difference is larger.
        DoesNotFit: the model finds nothing on any image, so there is nothing to compare.
    """
    model = request.model if model is None else model
    threshold, most = limits(model)
    worst, compared = 0.0, 0
    for image in sizes_of_a_graph(request, smallest):
        expected, found = of_model(model, image), _run(run, image, path)
        compared += _count(expected)
        gap = difference(expected, found, tolerance, threshold, most)
        if not gap <= tolerance:
            raise ExportError(
                f"{path.name} differs from the student on an image of {image.shape[1]} x {image.shape[2]} pixels by "
                f"{gap:g}, more than {tolerance:g} (inf: detections without a partner), so nothing was written"
            )
        worst = max(worst, gap)
    _check_that_something_was_compared(compared, path)
    return worst


def compare_roughly(
    request: ExportRequest, path: Path, run: Callable[[Tensor], Found], tolerance: float
) -> float:
    """Return the mean `disagreement` of a graph of lower precision with the model on the request's images.

    Raises:
        ExportError: the graph stops at an image, or they disagree more than the tolerance.
        DoesNotFit: the model finds nothing on any image, so there is nothing to compare.
    """
    expected = [of_model(request.model, image) for image in request.images]
    _check_that_something_was_compared(sum(map(_count, expected)), path)
    gaps = [disagreement(e, _run(run, i, path)) for e, i in zip(expected, request.images, strict=True)]
    mean = sum(gaps) / max(len(gaps), 1)
    if not mean <= tolerance:
        raise ExportError(
            f"{path.name} and the student disagree by {mean:.2f} of their detections' scores, or of the probabilities, "
            f"more than {tolerance:g}: this network does not bear the precision; use the float32 formats"
        )
    return mean


def _count(expected: Found) -> int:
    """How many detections there are to compare; logits are one."""
    return len(expected["scores"]) if "scores" in expected else 1


def _check_that_something_was_compared(compared: int, path: Path) -> None:
    if not compared:
        raise DoesNotFit(
            f"the student finds nothing on the images that {path.name} is to be compared on, so the file would be "
            "unchecked: name photos with objects that it finds (--image), or lower the score threshold "
            "(MODEL.ROI_HEADS.SCORE_THRESH_TEST, MODEL.RETINANET.SCORE_THRESH_TEST)"
        )


def _run(run: Callable[[Tensor], Found], image: Tensor, path: Path) -> Found:
    try:
        return run(image.float())
    except Exception as error:  # whatever a foreign runtime raises
        raise ExportError(
            f"{path.name} stops at an image of {image.shape[1]} x {image.shape[2]} pixels: {error}"
        ) from error
