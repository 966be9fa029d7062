"""Focal and global distillation (FGD): Yang et al., "Focal and Global Knowledge Distillation for Detectors", CVPR 2022.

`FocalGlobal` is its focal part with the attention term, `GlobalRelation` its global part. A pair uses both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .inputs import full_precision, prepare


class FocalGlobal(nn.Module):
    """Squared difference with the teacher's attention, apart for objects and background, and of the attention.

        S(F)_ij = N * softmax over cells of (mean over channels of |F_ij| / T)        N cells, S has the mean 1
        A(F)_k  = C * softmax over channels of (mean over cells of |F_k| / T)         A has the mean 1
        e_ij    = S(F_t)_ij * sum over channels k of A(F_t)_k (F_s - F_t)_kij^2

        foreground * sum_ij M_ij e_ij  +  background * sum_ij B_ij e_ij
            +  attention * (sum_ij |S(F_s) - S(F_t)|_ij + sum_k |A(F_s) - A(F_t)|_k)

    averaged over the B images. M is 1 / (a box's number of cells) in the cells of a ground-truth box, the largest of
    these (the smallest box) where several overlap, and 0 outside: each box counts alike. B is 1 / (number of cells
    outside every box) there, and 0 inside; an image without a box is all background. So the first two terms are
    mean squared differences of a cell, summed over boxes and channels, and only the third grows with the map.

    The cells of a box x0 y0 x1 y1 are columns floor(x0) to ceil(x1) and rows floor(y0) to ceil(y1), both ends
    included, as in the authors' code: one column and row more than the box touches. Its number of cells counts those
    that stick out of the map. The paper divides by the box's width and height. The authors' code stretches boxes
    so that an image fills its padded map; here a cell is `stride` pixels, and the two agree without padding.

    The published weights, the defaults, are those of Faster R-CNN and Mask R-CNN for each of p2 to p5: foreground
    (alpha) 5e-5, background (beta) 2.5e-5, attention (gamma) 5e-5, temperature 0.5. RetinaNet, GFL and SOLO: 1e-3,
    5e-4, 5e-4; RepPoints and FCOS: 1.6e-3, 8e-4, 8e-4, for FCOS with temperature 0.8.

    Zero at F_s = F_t. With `valid` padded cells are neither object nor background, and N, softmaxes and means are
    over each image's valid cells, as if its map had been cropped. The teacher's side is detached, its attention
    is a constant. Arithmetic is in float32, no element gives 0.

    Source: yzd-v/FGD (c03a6cf), `mmdet/distillation/losses/fgd.py`. Its first commit swapped rows and columns in
    the masks.

    Args:
        foreground: alpha.
        background: beta.
        attention: gamma.
        temperature: T.

    Raises:
        ValueError: a temperature that is not positive, or a negative weight.
    """

    needs = ("boxes",)

    def __init__(
        self,
        *,
        foreground: float = 5e-5,
        background: float = 2.5e-5,
        attention: float = 5e-5,
        temperature: float = 0.5,
    ) -> None:
        super().__init__()
        if temperature <= 0 or min(foreground, background, attention) < 0:
            raise ValueError(
                f"FocalGlobal needs a temperature above 0 and weights of at least 0, not {temperature} and "
                f"{foreground}, {background}, {attention}."
            )
        self.foreground, self.background, self.attention = foreground, background, attention
        self.temperature = temperature

    def forward(
        self, student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, boxes: Sequence[Tensor]
    ) -> Tensor:
        """Compare two maps (B, C, H, W); see the class. Returns a scalar.

        Args:
            student: the student's map.
            teacher: the teacher's map.
            valid: bool (B, 1, H, W).
            boxes: of each image, (n, 4): x0 y0 x1 y1 in cells of the map.

        Raises:
            ValueError: the shapes differ, are not maps, or there are not B sets of boxes.
        """
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            _check_maps(student)
            objects, rest = box_weights(boxes, student, valid)
            if student.numel() == 0:
                return student.sum() * 0
            where, what = spatial_attention(teacher, self.temperature, valid), self._channels(teacher, valid)
            per_cell = where * ((student - teacher).square() * what).sum(1, keepdim=True)
            focal = (per_cell * (self.foreground * objects + self.background * rest)).sum()
            shifted = (spatial_attention(student, self.temperature, valid) - where).abs().sum()
            shifted = shifted + (self._channels(student, valid) - what).abs().sum()
            return (focal + self.attention * shifted) / len(student)

    def _channels(self, feature: Tensor, valid: Tensor | None) -> Tensor:
        return channel_attention(feature, self.temperature, valid)

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return (
            f"foreground={self.foreground}, background={self.background}, attention={self.attention}, "
            f"temperature={self.temperature}"
        )


class GlobalRelation(nn.Module):
    """The global part of FGD: squared difference of two maps, each with its own global context added.

        sum over C, H, W of (R_s(F_s) - R_t(F_t))^2, divided by the B images

    R_s and R_t are networks ``(map, valid) -> map``, for FGD two `det_distill.adapters.GlobalContext`. Both train
    with the student, R_t too: a teacher's adapter of a pair is frozen, which is why they are arguments here and not
    adapters of the pair. Neither gives the student anything but its gradient, and neither is exported. The loss
    has no parameters of its own; None stands for no network, and the value is then that of
    ``MaskedGeneration("sum")``.

    Published weights (lambda): 5e-7 for Faster R-CNN and Mask R-CNN, 5e-6 for RetinaNet, GFL and SOLO, 8e-6 for
    RepPoints and FCOS.

    F_t is detached. With `valid` contexts and sums are over each image's valid cells, as if its map had been cropped.
    Arithmetic is in float32, no element gives 0.

    Source: yzd-v/FGD (c03a6cf), `mmdet/distillation/losses/fgd.py`, `get_rela_loss`. The paper writes one R for
    both sides; the code, which we follow, has two.

    Args:
        student_context: R_s.
        teacher_context: R_t.
    """

    def __init__(
        self, student_context: nn.Module | None = None, teacher_context: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.student_context, self.teacher_context = student_context, teacher_context

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare two maps (B, C, H, W); see the class. Returns a scalar.

        Raises:
            ValueError: the shapes differ or are not maps.
        """
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            _check_maps(student)
            if self.student_context is not None:
                student = self.student_context(student, valid)
            if self.teacher_context is not None:
                teacher = self.teacher_context(teacher, valid)
            difference = student - teacher
            if valid is not None:
                difference = difference.masked_fill(~valid, 0)
            return difference.square().sum() / max(len(student), 1)


def spatial_attention(feature: Tensor, temperature: float, valid: Tensor | None = None) -> Tensor:
    """S of `FocalGlobal`: (B, C, H, W) to (B, 1, H, W), of mean 1 over each image's (valid) cells, 0 elsewhere."""
    logits = feature.abs().mean(1) / temperature
    if valid is None:
        count: Tensor | int = logits[0].numel()
    else:
        logits = logits.masked_fill(~valid[:, 0], torch.finfo(logits.dtype).min)
        count = valid.sum((1, 2, 3)).view(-1, 1)
    return (count * F.softmax(logits.flatten(1), dim=1)).view(-1, 1, *feature.shape[2:])


def channel_attention(feature: Tensor, temperature: float, valid: Tensor | None = None) -> Tensor:
    """A of `FocalGlobal`: (B, C, H, W), zero outside `valid`, to (B, C, 1, 1) of mean 1 over the channels."""
    total = feature.abs().sum((2, 3), keepdim=True)
    count = feature[0, 0].numel() if valid is None else valid.sum((2, 3), keepdim=True).clamp(min=1)
    return feature.shape[1] * F.softmax(total / count / temperature, dim=1)


def box_weights(
    boxes: Sequence[Tensor], feature: Tensor, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return M and B of `FocalGlobal`, each (B, 1, H, W) in the type of `feature`.

    Raises:
        ValueError: not one (n, 4) for each image.
    """
    if len(boxes) != len(feature) or any(b.dim() != 2 or b.shape[1] != 4 for b in boxes):
        raise ValueError(
            f"boxes must be one (n, 4) for each of the {len(feature)} images, (0, 4) where there is none, not "
            f"{[tuple(b.shape) for b in boxes]}."
        )
    objects = feature.new_zeros(len(feature), 1, *feature.shape[2:])
    rows, columns = (torch.arange(n, device=feature.device) for n in feature.shape[2:])
    for image, own in zip(objects, boxes, strict=True):
        (x0, y0), (x1, y1) = own[:, :2].to(feature).floor().T, own[:, 2:].to(feature).ceil().T
        size = (x1 - x0 + 1) * (y1 - y0 + 1)
        inside = _between(rows, y0, y1)[:, :, None] & _between(columns, x0, x1)[:, None]
        weights = inside / size[:, None, None]
        image[0] = torch.cat([weights, image]).amax(0)
    background = (objects == 0) if valid is None else (objects == 0) & valid
    if valid is not None:
        objects = objects.masked_fill(~valid, 0)
    return objects, background / background.sum((2, 3), keepdim=True).clamp(min=1)


def _between(positions: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Which of the P positions are in each of the n closed ranges, (n, P)."""
    return (positions >= first[:, None]) & (positions <= last[:, None])


def _check_maps(feature: Tensor) -> None:
    if feature.dim() != 4:
        raise ValueError(
            f"FGD compares maps (B, C, H, W), such as a level of the feature pyramid, not {tuple(feature.shape)}."
        )
