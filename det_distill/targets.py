"""What a loss may know of the ground truth: the class of each row, the boxes on a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Step", "boxes_in_cells", "cells_in_boxes", "class_count", "is_detector", "labels_of", "mirrored"]


_MIXED = (
    "methods that need the class of each row do not go with mixed images: set MIXUP and CUTMIX of INPUT.CLASSIFICATION "
    "to 0, or take another method. DecoupledTarget, GradientAttention, FlipSymmetry, SELECT 'teacher_correct' and "
    "MetricLearner need the class"
)


class Step(NamedTuple):
    """What a pair may know of a training step besides the recorded values.

    ``image_sizes``: (height, width) in pixels of every image, before padding. ``iteration``: for the schedule.
    ``batch``: what the models were called with. ``mirrored``: the student's values of a second forward pass on
    mirrored images, if some loss needs it.
    """

    image_sizes: Sequence[tuple[int, int]] | None = None
    iteration: int = 0
    batch: Any = None
    mirrored: Mapping[str, Any] | None = None


def class_count(model: object) -> int | None:
    """Return the number of classes of a detector or classifier, the background not counted; None: it does not say."""
    count = getattr(getattr(model, "roi_heads", model), "num_classes", None)
    return count if isinstance(count, int) else None


def is_detector(model: object) -> bool:
    """Return whether a model has the parts of a detectron2 detector; False: it has not, or it is of another make."""
    return hasattr(model, "backbone") and hasattr(model, "preprocess_image")


def labels_of(rows: Any, device: torch.device) -> Tensor:
    """Return the class of each row, int64 (R,).

    Args:
        rows: a list of detectron2's labelled proposals (``gt_classes``; the background has the number of classes),
            whose rows follow one another, or a batch of samples with ``label``.
        device: where the labels go.

    Raises:
        ValueError: no labels in there, or images that were mixed and so are of no one class (``target``).
    """
    try:
        mixed = any(isinstance(r, Mapping) and "target" in r for r in rows)
        if all(hasattr(r, "gt_classes") for r in rows) and len(rows):
            return torch.cat([r.gt_classes for r in rows]).to(device)
        labels = torch.as_tensor([int(r["label"]) for r in rows], device=device)
    except (TypeError, KeyError, AttributeError, IndexError):
        raise ValueError(
            "a pair needs the class of each row, and found neither sampled proposals with gt_classes nor samples with "
            "'label'. On rows of RoIs a Pair that is built by hand wants labels='roi_heads:0'; and C4 heads do not "
            "return their sampled proposals: methods that need labels want FPN heads there"
        ) from None
    if mixed:
        raise ValueError(_MIXED)
    return labels


def boxes_in_cells(batch: Any, stride: int, device: torch.device) -> list[Tensor]:
    """Return each image's ground-truth boxes, (n, 4) float as x0 y0 x1 y1, in cells of a map of this stride.

    Args:
        batch: samples with detectron2's ``instances``.
        stride: pixels per cell.
        device: where the boxes go.

    Raises:
        ValueError: a sample without ``instances``.
    """
    try:
        return [x["instances"].gt_boxes.tensor.to(device, torch.float32) / stride for x in batch]
    except (TypeError, KeyError, AttributeError):
        raise ValueError(
            "a pair needs ground-truth boxes, and the batch has none ('instances' with gt_boxes)"
        ) from None


def cells_in_boxes(boxes: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Return which cells of maps a box touches, bool (B, 1, height, width).

    Args:
        boxes: of each image, (n, 4) in cells.
        height: cells.
        width: cells.
    """
    masks = []
    for own in boxes:
        rows, columns = (torch.arange(n, device=own.device) for n in (height, width))
        (x0, y0), (x1, y1) = own[:, :2].floor().T[..., None], own[:, 2:].ceil().T[..., None]
        down, right = (rows >= y0) & (rows < y1), (columns >= x0) & (columns < x1)
        masks.append((down[:, :, None] & right[:, None]).any(0))
    return torch.stack(masks)[:, None] if masks else torch.zeros(0, 1, height, width, dtype=torch.bool)


def mirrored(batch: Any) -> list[dict[str, Any]]:
    """Return the batch with every image mirrored left to right; labels stay.

    Raises:
        ValueError: the batch is no list of samples with ``image``.
    """
    try:
        return [{**x, "image": x["image"].flip(-1)} for x in batch]
    except (TypeError, KeyError, AttributeError):
        raise ValueError(
            "mirroring needs a batch that is a list of samples with 'image', (C, H, W)"
        ) from None
