"""Training samples of noise, for benchmarks and tests without data."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.structures import Boxes, Instances

__all__ = ["noise_with_boxes", "noise_with_label"]

_BOXES = 8


def noise_with_boxes(height: int, width: int, classes: int, noise: torch.Generator) -> dict[str, Any]:
    """Return a detector's sample with 8 boxes, sides between 1/8 and 1/2 of the image's.

    Args:
        height: of the image in pixels.
        width: likewise.
        classes: the number of classes.
        noise: where it is drawn from.
    """
    size = torch.tensor([width, height])
    sides = (torch.rand(_BOXES, 2, generator=noise) * 3 / 8 + 1 / 8) * size
    corners = torch.rand(_BOXES, 2, generator=noise) * (size - sides)
    objects = Instances(
        (height, width),
        gt_boxes=Boxes(torch.cat([corners, corners + sides], dim=1)),
        gt_classes=torch.randint(classes, (_BOXES,), generator=noise),
    )
    return {"image": _pixels(height, width, noise), "instances": objects, "height": height, "width": width}


def noise_with_label(height: int, width: int, classes: int, noise: torch.Generator) -> dict[str, Any]:
    """Return a classifier's sample; the arguments are those of `noise_with_boxes`."""
    label = int(torch.randint(classes, (), generator=noise))
    return {"image": _pixels(height, width, noise), "label": label}


def _pixels(height: int, width: int, noise: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=noise, dtype=torch.uint8)
