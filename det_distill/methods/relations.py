"""Methods that look at how one part of a network follows from another: FSP matrices and input gradients."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from ..adapters import Conv1x1, Each
from ..losses import FSP, FlipSymmetry, GradientAttention
from ..targets import is_detector
from .sides import Parts, Side


def fsp(
    student: Side, teacher: Side, *, reduction: Literal["sum", "mean"] = "sum", adapter: str = "none"
) -> Parts:
    """Flow of the solution procedure, Yim, Joo, Bae and Kim, CVPR 2017.

    A pair has two addresses a side, maps of one network. The paper trains on this alone first and on the task alone
    afterwards.

    Args:
        student: the student's two maps.
        teacher: the teacher's two maps, with the student's channels.
        reduction: ``"sum"`` over the matrix (paper) or ``"mean"``.
        adapter: ``"none"`` (paper), or ``"linear"``, which is not in the paper: a 1x1 convolution in front of each of
            the student's maps, to the teacher's channels.

    Raises:
        ValueError: not two addresses a side, vectors, channels that differ without an adapter, an unknown choice.
    """
    if adapter not in ("none", "linear"):
        raise ValueError(f"ADAPTER {adapter!r}: choose 'none' or 'linear'")
    for side in (student, teacher):
        _two_addresses(side, "FSP", "[backbone:res2, backbone:res3]")
        side.need_maps("FSP")
    own, its = ([spec.channels for spec in side.specs] for side in (student, teacher))
    if adapter == "none" and any(s and t and s != t for s, t in zip(own, its, strict=True)):
        raise ValueError(
            f"the student's maps {', '.join(student.addresses)} have {own} channels, the teacher's {its}: the paper's "
            "FSP needs equal ones. Choose other addresses, or set ADAPTER: 'linear', which is not in the paper"
        )
    if adapter == "none":
        return Parts(FSP(reduction))
    maps = [Conv1x1(s, t) for s, t in zip(student.all_channels, teacher.all_channels, strict=True)]
    return Parts(FSP(reduction), Each(maps))


def gradient_attention(student: Side, teacher: Side) -> Parts:
    """Gradient-based attention transfer, Zagoruyko and Komodakis, ICLR 2017.

    Args:
        student: addresses of the class logits and of the model's input, for example ``classifier`` and
            ``backbone@input``.
        teacher: the same in the teacher.

    Raises:
        ValueError: other addresses, a detector, or models that want different pixels (`check_pixels`).
    """
    _logits_and_input(student, "GradientAttention")
    _logits_and_input(teacher, "GradientAttention")
    check_pixels(student, teacher)
    return Parts(GradientAttention())


def flip_symmetry(student: Side, teacher: Side | None) -> Parts:
    """The teacher-free variant of gradient-based attention: gradients of an image and of its mirror image agree.

    Args:
        student: addresses of the class logits and of the model's input.
        teacher: not used; None.

    Raises:
        ValueError: other addresses, or a detector.
    """
    _logits_and_input(student, "FlipSymmetry")
    return Parts(FlipSymmetry())


flip_symmetry.teacher_free = True  # type: ignore[attr-defined]


def _logits_and_input(side: Side, method: str) -> None:
    example = "[classifier, backbone@input]"
    _two_addresses(side, method, example)
    if "@" in side.addresses[0] or "@" not in side.addresses[1]:
        raise ValueError(
            f"{method} differentiates logits with respect to an input: its addresses are of the form {example}, not "
            f"[{', '.join(side.addresses)}]"
        )
    if is_detector(side.model):
        raise ValueError(
            f"{method} differentiates the class logits of images, and {type(side.model).__name__} is a detector, which "
            "has none: use it with classifiers"
        )


def check_pixels(student: Side, teacher: Side) -> None:
    """Compare what the two models make of an image, as far as they say: gradients are with respect to that.

    Raises:
        ValueError: another order of channels, another number of them or another normalisation.
    """
    for name, key in {
        "input_format": "INPUT.FORMAT",
        "pixel_mean": "MODEL.PIXEL_MEAN",
        "pixel_std": "MODEL.PIXEL_STD",
    }.items():
        own, its = (_listed(getattr(side.model, name, None)) for side in (student, teacher))
        if own is not None and its is not None and own != its:
            raise ValueError(
                f"GradientAttention compares gradients with respect to the pixels that the models get, and the "
                f"student's {key} is {own}, the teacher's {its}: take a teacher that was trained with the student's"
            )


def _listed(value: Any) -> Any:
    return value.flatten().tolist() if isinstance(value, Tensor) else value


def _two_addresses(side: Side, method: str, example: str) -> None:
    if len(side.addresses) != 2:
        raise ValueError(
            f"{method} takes two addresses a side as one entry, for example AT: [{example}], not "
            f"{len(side.addresses)}: {', '.join(side.addresses)}"
        )
