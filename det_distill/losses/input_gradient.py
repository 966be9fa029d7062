"""Attention as the gradient of the classification loss with respect to the image: Zagoruyko, Komodakis, "Paying More
Attention to Attention: Improving the Performance of Convolutional Neural Networks via Attention Transfer", ICLR 2017.

    J(x) = d( sum over images of CE(logits(x), label) ) / d x        (B, 3, H, W), as the pixels

The cross entropies are summed, not averaged: J of an image does not depend on the batch size, and neither does the
meaning of a weight. Both losses need double back-propagation: a backward pass for J whose own graph is kept, and the
trainer's backward pass through it. What follows from that:

* Cost: about twice a training step's time and memory for the student; the teacher runs forward and backward.
* The parameters' gradient comes through J alone, so a bias of the classifier has one (J depends on the softmax), and
  a network that is linear up to its logits has no curvature but the cross entropy's.
* Batch normalisation in training mode mixes images: a pixel of one image changes another image's loss by way of the
  batch's statistics, and J contains that. It is differentiated faithfully, but J is then not a function of one image
  alone. The teacher, in eval mode, has no such coupling. To be without it, freeze the student's statistics.
* J is computed in the precision that the network ran in, from the *unscaled* loss: a gradient scaler has no part in
  it. The cross entropy and everything behind J is in float32, but under float16 small gradients vanish on their way
  down to the pixels. Train in float32 or bfloat16.
* Every operation between pixels and logits must be differentiable twice; RoI pooling is not. These are losses for
  classifiers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .inputs import full_precision, prepare

__all__ = ["FlipSymmetry", "GradientAttention", "input_gradient"]

Masks = Sequence[Tensor | None]


def input_gradient(logits: Tensor, pixels: Tensor, labels: Tensor, *, create_graph: bool = False) -> Tensor:
    """Return J = d(sum over images of the cross entropy) / d pixels, of the shape and type of `pixels`.

    Args:
        logits: (B, K), computed from `pixels` with gradients enabled.
        pixels: (B, C, H, W), the very tensor that the model was given; requires a gradient.
        labels: int64 (B,).
        create_graph: make J differentiable with respect to the model's parameters.

    Raises:
        ValueError: the labels do not fit, or there is no path from `pixels` to `logits` to differentiate along.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"The input gradient needs logits (B, K) and int64 labels (B,), not {tuple(logits.shape)} and "
            f"{labels.dtype} of shape {tuple(labels.shape)}."
        )
    if not pixels.requires_grad or not logits.requires_grad:
        which = "logits carry no graph" if pixels.requires_grad else "pixels do not require a gradient"
        raise ValueError(
            f"The {which}: run the model with gradients enabled on pixels that require one. A pair does so when "
            "its second address is an input, for example 'backbone@input'."
        )
    with full_precision(logits):
        dtype = torch.promote_types(logits.dtype, torch.float32)
        total = F.cross_entropy(logits.to(dtype), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(
            total, pixels, create_graph=create_graph, retain_graph=True, allow_unused=True
        )
    if gradient is None:
        raise ValueError(
            "The logits do not depend on these pixels: tap the very tensor that the model computes them from, "
            "before any cropping, casting or selection of rows."
        )
    return gradient


class GradientAttention(nn.Module):
    """Distance of the student's and the teacher's input gradients J; see the head of this file.

        value = (1/2) * mean over the B images of || J_s - J_t ||_2        norm over all pixels and channels

    The norm is *not* squared and has no divisor but B: it grows with the square root of the number of pixels at a
    given difference per pixel. With the 1/2 the pair's weight is the beta of the paper, which adds
    (beta / 2) ||J_s - J_t||_2 to the cross entropy. At J_s = J_t the value is zero and its gradient is taken as zero.

    `student` and `teacher` are lists [logits (B, K), pixels (B, C, H, W)]. Each side is differentiated with respect
    to its own pixels, so both models should take images of one size, one normalisation and one order of channels.
    With `valid`, [anything, mask (B, 1, H, W) of the pixels], J counts as zero in the padding. The teacher's J is
    detached: neither its parameters nor its pixels get a gradient. No images give 0.

    Source: the paper, by secondary sources; the authors published no code for this part, so there are no numbers to
    compare with. It is tested by hand-derived models and finite differences. Their value of beta is not confirmed.
    """

    needs = ("labels",)
    differentiates_input = True

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor],
        valid: Masks | None = None,
        *,
        labels: Tensor,
    ) -> Tensor:
        """Compare the gradients of two models at [logits, pixels]; `labels` int64 (B,). Returns a scalar.

        Raises:
            ValueError: not [logits, pixels], pixels of unequal shapes, or what `input_gradient` raises.
        """
        (logits, pixels), (its_logits, its_pixels) = _logits_and_pixels(student), _logits_and_pixels(teacher)
        if logits.numel() == 0 or pixels.numel() == 0:
            return _zero(logits)
        own = input_gradient(logits, pixels, labels, create_graph=True)
        its = input_gradient(its_logits, its_pixels, labels)
        with full_precision(pixels):
            own, its = prepare(own, its, None if valid is None else valid[1])
            return _half_norm(own - its)


class FlipSymmetry(nn.Module):
    """Distance of J at an image from J at its mirror image, mirrored back; without a teacher.

        value = (1/2) * mean over the B images of || J(x) - mirror( J(mirror(x)) ) ||_2

    The mirror is left to right. Norm, 1/2 and divisor are those of `GradientAttention`, with which it can be combined.
    It asks for *gradients* that are symmetric and is zero for a network whose logits do not change under the mirror.
    Both terms carry the student's graph. At zero its gradient is taken as zero.

    `student` and `mirrored` are lists [logits (B, K), pixels (B, C, H, W)] of two forward passes of one model, on
    images and on their mirror images; `teacher` is not used and may be None. All images must have one size, since
    the padding of a mirrored image is on the other side: a mask `valid` is an error. With batch normalisation in
    training mode the second pass has statistics of its own. No images give 0.

    Source: as for `GradientAttention`.
    """

    needs = ("labels", "mirrored")
    differentiates_input = True

    def forward(
        self,
        student: Sequence[Tensor],
        teacher: Sequence[Tensor] | None = None,
        valid: Masks | None = None,
        *,
        labels: Tensor,
        mirrored: Sequence[Tensor],
    ) -> Tensor:
        """Compare J of `student` with that of `mirrored`, both [logits, pixels]. Returns a scalar.

        Raises:
            ValueError: not [logits, pixels] of equal shapes, a mask, or what `input_gradient` raises.
        """
        (logits, pixels), (m_logits, m_pixels) = _logits_and_pixels(student), _logits_and_pixels(mirrored)
        if valid is not None and any(mask is not None for mask in valid):
            raise ValueError(
                "FlipSymmetry needs images of one size: there is no mirroring of a padded batch."
            )
        if pixels.dim() != 4 or m_pixels.shape != pixels.shape:
            raise ValueError(
                "FlipSymmetry mirrors images (B, C, H, W) of one size, "
                f"not {tuple(pixels.shape)} and {tuple(m_pixels.shape)}."
            )
        if logits.numel() == 0 or pixels.numel() == 0:
            return _zero(logits)
        own = input_gradient(logits, pixels, labels, create_graph=True)
        other = input_gradient(m_logits, m_pixels, labels, create_graph=True)
        with full_precision(pixels):
            dtype = torch.promote_types(own.dtype, torch.float32)
            return _half_norm(own.to(dtype) - other.to(dtype).flip(-1))


def _logits_and_pixels(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    if isinstance(values, Tensor) or len(values) != 2:
        raise ValueError(
            "Losses on input gradients take [logits, pixels]: a pair with two addresses a side, for example "
            "'classifier' and 'backbone@input'."
        )
    return values[0], values[1]


def _zero(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).sum() * 0


def _half_norm(difference: Tensor) -> Tensor:
    """Half the mean of each image's L2 norm; the primitive's gradient at a zero vector is zero."""
    return torch.linalg.vector_norm(difference.flatten(1), dim=1).mean() / 2
