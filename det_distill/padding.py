"""Batches of unequal images are padded at the right and the bottom; which cells of a map are image, which padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["image_sizes", "valid_cells"]


def image_sizes(batch: Any) -> list[tuple[int, int]] | None:
    """Return (height, width) in pixels of each image of a list of dicts with ``image``, (C, H, W); None for others."""
    try:
        sizes = [tuple(x["image"].shape[-2:]) for x in batch]
    except (TypeError, KeyError, IndexError, AttributeError):
        return None
    return [(int(h), int(w)) for h, w in sizes]


def valid_cells(
    feature: Tensor, stride: int | None, sizes: Sequence[tuple[int, int]] | None
) -> Tensor | None:
    """Return which cells of a map have their top-left pixel in the image.

    Args:
        feature: (B, C, H, W).
        stride: input pixels per cell.
        sizes: (height, width) of each image before padding, B of them.

    Returns:
        (B, 1, H, W) bool; None when every cell is valid, or when stride or sizes are unknown.
    """
    if stride is None or sizes is None or feature.dim() != 4 or len(sizes) != feature.shape[0]:
        return None
    rows = torch.arange(feature.shape[-2]) * stride
    columns = torch.arange(feature.shape[-1]) * stride
    limits = torch.tensor(list(sizes))
    mask = (rows[None, :, None] < limits[:, :1, None]) & (columns[None, None, :] < limits[:, 1:, None])
    return None if bool(mask.all()) else mask[:, None].to(feature.device, non_blocking=True)
