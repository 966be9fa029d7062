"""What every loss does before its formula: check shapes, upcast, detach the teacher, blank out the padding.

Shapes, here and in every loss: ``R`` rows (RoIs, images), ``B`` images, ``C`` channels, ``H, W`` cells.
A feature is rows ``(R, C)`` or a map ``(B, C, H, W)``. ``valid`` is a bool mask ``(B, 1, H, W)``, True where
the map covers the image and False in the padding that batches of unequal images have.
"""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(feature: Tensor) -> torch.autocast:
    """Context in which autocast is off on the device of `feature`; a loss does all its arithmetic inside."""
    return torch.autocast(feature.device.type, enabled=False)


def prepare(
    student: Tensor,
    teacher: Tensor,
    valid: Tensor | None = None,
    *,
    channels: bool = True,
    rows: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return (student, teacher): checked, in float32, teacher detached, both zero outside `valid`.

    Half precision becomes float32; a float64 student stays float64 and takes the teacher with it. Padded
    cells are replaced, not multiplied, so that an inf or nan there reaches neither the value nor a gradient.

    Args:
        student: rows or a map.
        teacher: rows or a map.
        valid: mask of a map's cells; None: all count.
        channels: whether the two must have equally many channels; a loss passes False that declares
            `needs_equal_channels = False`.
        rows: whether rows are taken; a loss passes False that looks at the cells of a map.

    Raises:
        ValueError: the shapes differ (the message names both, and the adapter to add), are neither rows nor
            maps, are rows where only maps make sense, or `valid` is not a bool mask of the map's size.
    """
    _check_shapes(student, teacher, channels, rows)
    dtype = torch.promote_types(student.dtype, torch.float32)
    student, teacher = student.to(dtype), teacher.detach().to(dtype)
    if valid is not None:
        check_valid(valid, student)
        student, teacher = student.masked_fill(~valid, 0), teacher.masked_fill(~valid, 0)
    return student, teacher


def rows_of(feature: Tensor) -> Tensor:
    """View a map (B, C, H, W) as one row per cell, (B * H * W, C), image by image; rows pass unchanged."""
    return feature if feature.dim() == 2 else feature.movedim(1, -1).flatten(0, 2)


def image_mean(per_cell: Tensor, valid: Tensor | None) -> Tensor:
    """Average `per_cell` (R,) or (B, H, W): the mean over each image's valid cells, then over the B images.

    Without `valid` that is the mean over all cells. An image that has no valid cell counts as a zero.
    """
    if valid is None:
        return per_cell.mean()
    inside = valid[:, 0]
    total = per_cell.masked_fill(~inside, 0).sum(dim=(1, 2))
    return (total / inside.sum(dim=(1, 2)).clamp(min=1)).mean()


def check_valid(valid: Tensor, feature: Tensor) -> None:
    """Raise a ValueError unless `valid` is a bool mask (B, 1, H, W) for the map `feature` (B, C, H, W)."""
    if feature.dim() != 4:
        raise ValueError(
            f"A mask of valid cells goes with maps (B, C, H, W), not with {tuple(feature.shape)}."
        )
    expected = (feature.shape[0], 1, *feature.shape[2:])
    if tuple(valid.shape) != expected or valid.dtype != torch.bool:
        raise ValueError(
            f"`valid` must be a bool mask of shape {expected} for a map of shape {tuple(feature.shape)}, "
            f"but is {valid.dtype} of shape {tuple(valid.shape)}."
        )


def _check_shapes(student: Tensor, teacher: Tensor, channels: bool, rows: bool) -> None:
    if not rows and student.dim() == teacher.dim() == 2:
        problem = "this loss compares the cells of two maps (B, C, H, W), and rows (R, C) have none."
    elif student.dim() not in (2, 4) or student.dim() != teacher.dim():
        problem = "a loss compares two sets of rows (R, C) or two maps (B, C, H, W)."
    elif channels and student.shape[1] != teacher.shape[1]:
        problem = f"the channels differ. {_adapter_hint(student, teacher)}"
    elif student.shape[0] != teacher.shape[0]:
        problem = (
            "the counts differ: both sides must describe the same images, or the same RoIs in one order."
        )
    elif student.shape[2:] != teacher.shape[2:]:
        problem = "the map sizes differ: crop or resize the larger one to the smaller before the loss."
    else:
        return
    shapes = f"{tuple(student.shape)} and the teacher's {tuple(teacher.shape)}"
    raise ValueError(f"The student's feature has shape {shapes}; {problem}")


def _adapter_hint(student: Tensor, teacher: Tensor) -> str:
    widths = f"({student.shape[1]}, {teacher.shape[1]})"
    if student.dim() == 2:
        return f"Add the adapter Linear{widths} on the student's side."
    return f"Add the adapter Conv1x1{widths} on the student's side (factor transfer: Translator{widths})."
