"""Two maps of one image on one grid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["align_maps"]


def align_maps(
    student: Tensor,
    teacher: Tensor,
    *,
    resize: bool = False,
    strides: tuple[int | None, int | None] = (None, None),
    names: tuple[str, str] = ("the student's", "the teacher's"),
) -> tuple[Tensor, Tensor]:
    """Bring two maps to one height and width; anything but two maps of unequal size passes unchanged.

    Args:
        student: (B, C, H, W).
        teacher: (B, C', H', W').
        resize: resize the teacher's bilinearly to the student's grid; otherwise keep the common top-left part of both.
        strides: input pixels per cell of each. With both, resizing first crops the maps to the pixels that both cover.
        names: for the message.

    Raises:
        ValueError: to be cropped, but so unequal that their strides must differ.
    """
    if student.dim() != 4 or teacher.dim() != 4 or student.shape[-2:] == teacher.shape[-2:]:
        return student, teacher
    if resize:
        student, teacher = _common_part(student, teacher, *strides)
        size = student.shape[-2:]
        return student, F.interpolate(teacher.float(), size=size, mode="bilinear", align_corners=False)
    height, width = (min(student.shape[d], teacher.shape[d]) for d in (-2, -1))
    larger = max(student.shape[-2] / height, teacher.shape[-2] / height, student.shape[-1] / width)
    if max(larger, teacher.shape[-1] / width) >= 2 and min(height, width) > 1:
        raise ValueError(
            f"maps of {names[0]!r} {tuple(student.shape)} and {names[1]!r} {tuple(teacher.shape)} differ in stride: "
            "pair maps of equal stride or set align='resize'"
        )
    return student[..., :height, :width], teacher[..., :height, :width]


def _common_part(
    student: Tensor, teacher: Tensor, stride: int | None, its_stride: int | None
) -> tuple[Tensor, Tensor]:
    """Crop both maps to the cells inside the pixels that both cover."""
    if stride is None or its_stride is None:
        return student, teacher
    pixels = [
        min(s * stride, t * its_stride) for s, t in zip(student.shape[-2:], teacher.shape[-2:], strict=True)
    ]
    own, its = ([-(-p // cell) for p in pixels] for cell in (stride, its_stride))
    return student[..., : own[0], : own[1]], teacher[..., : its[0], : its[1]]
