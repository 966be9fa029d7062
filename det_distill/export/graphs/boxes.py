"""Anchors, decoding, clipping and suppression as detectron2 does them, on tensors only.

Written so that every exporter follows them: no size of a tensor becomes a Python number, so that a graph made at one
size of image is right at every other. Sources: detectron2's ``anchor_generator.py``, ``box_regression.py``,
``structures/boxes.py``, ``layers/nms.py``.

Shape letters: N boxes, K boxes per row of deltas, A anchors per cell, h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms

__all__ = ["anchors", "areas", "clip", "decode", "first", "length", "nonempty", "per_class_nms", "suppress"]


def length(row: Tensor) -> Tensor:
    """Return how many elements a vector has, as a float32 tensor () that no exporter takes for a constant."""
    return torch.ones_like(row, dtype=torch.float32).sum()


def first(vector: Tensor, count: int) -> Tensor:
    """Return at most `count` elements from the front; unlike a slice, no exporter asks which of both it is."""
    found = vector[torch.arange(vector.shape[0], device=vector.device) < count]
    if not torch.jit.is_tracing():  # where sizes are tensors
        torch._check(found.shape[0] <= count)
    return found


def anchors(cells: Tensor, h: int, w: int, stride: float, offset: float) -> Tensor:
    """Lay anchors on every cell of a map.

    Args:
        cells: (A, 4), the anchors around (0, 0).
        h, w: the map's size.
        stride: pixels between two cells.
        offset: of the first cell from the image's corner, in cells.

    Returns:
        (h * w * A, 4) x0 y0 x1 y1: all anchors of a cell, then those of the next in its row.
    """
    y = (torch.arange(h, dtype=torch.float32, device=cells.device) + offset) * stride
    x = (torch.arange(w, dtype=torch.float32, device=cells.device) + offset) * stride
    row, column = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([column, row, column, row], dim=-1).reshape(-1, 1, 4)
    return (shifts + cells).reshape(-1, 4)


def decode(deltas: Tensor, boxes: Tensor, weights: Sequence[float], scale_clamp: float) -> Tensor:
    """Move boxes as a network says.

    Args:
        deltas: (N, K * 4), dx dy dw dh.
        boxes: (N, 4).
        weights: by which dx dy dw dh are divided.
        scale_clamp: upper bound of dw and dh.

    Returns:
        (N, K, 4) x0 y0 x1 y1.
    """
    deltas = deltas.float().unflatten(1, (-1, 4))
    corner, size = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
    shift = deltas[..., :2] / deltas.new_tensor(list(weights[:2]))
    scale = (deltas[..., 2:] / deltas.new_tensor(list(weights[2:]))).clamp(max=scale_clamp)
    centre = shift * size + (corner + 0.5 * size)
    half = 0.5 * (torch.exp(scale) * size)
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Return boxes (..., 4) cut off at the image's edges; `height` and `width` are (), see `length`."""
    edge = torch.stack([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), edge)


def areas(boxes: Tensor) -> Tensor:
    """Return the areas of boxes (N, 4) as (N,)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def nonempty(boxes: Tensor, side: float = 0.0) -> Tensor:
    """Return which boxes (N, 4) are finite with both sides longer than `side`, (N,)."""
    longer = (boxes[:, 2:] - boxes[:, :2] > side).all(dim=1)
    return longer & torch.isfinite(boxes).all(dim=1)


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Suppress boxes that overlap with a better one by more than `threshold`.

    Args:
        boxes: (N, 4), no side of it below 0; N may be 0.
        scores: (N,), finite.
        threshold: of the intersection over union.

    Returns:
        The indices of those that stay, best first, (M,) int64.
    """
    # Two empty boxes that overlap with nothing and come last: torchvision tells exporters that 2 or more boxes stay
    # (`create_unbacked_symint` of its fake kernel), and a program made so would stop at an image with less.
    ends = boxes.new_zeros(2, 4), scores.new_full((2,), torch.finfo(scores.dtype).min)
    kept = nms(torch.cat([boxes, ends[0]]), torch.cat([scores, ends[1]]), threshold)
    return kept[:-2]


def per_class_nms(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """Suppress, within each class, boxes that overlap with a better one by more than `threshold`.

    Boxes of different classes are moved apart, which is what detectron2 and torchvision do below 1,000 boxes; above,
    torchvision takes class by class, which can differ by rounding of an overlap that is the threshold to 4 digits.

    Args:
        boxes: (N, 4), no side of it below 0.
        scores: (N,).
        classes: (N,) int64.
        threshold: of the intersection over union.

    Returns:
        The indices of those that stay, best first, (M,) int64.
    """
    # a 0 is appended, so that there is a maximum without boxes too
    farthest = torch.cat([boxes.reshape(-1), boxes.new_zeros(1)]).max()
    shift = classes.to(boxes.dtype) * (farthest + 1)
    return suppress(boxes + shift[:, None], scores, threshold)
