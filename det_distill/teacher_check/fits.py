"""Whether a teacher means the same as the student: by its classes, by the pixels that it wants, by its size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn

from ..evaluation.cost import giga_multiply_adds
from ..pairs import Pair
from ..pixels import differing_pixels, pixels_of
from ..targets import class_count
from ..teachers import RCNNTeacher
from .candidates import Candidate
from .findings import TROUBLES, Finding, error_text

__all__ = ["check_classes", "check_cost", "check_pixels", "compares_classes"]

_CLASS_SCORES = re.compile(r"(^|\.)(box_predictor:0|classifier|cls_score|linear|fc)(#\d+)?(:\d+)?$")
_SHOWN = 6


def compares_classes(pairs: Iterable[Pair]) -> bool:
    """Return whether some pair compares class scores, or asks whether the teacher is right: needs one class list."""
    return any(p.select.logits or any(map(_CLASS_SCORES.search, p.teacher)) for p in pairs)


def check_classes(
    candidate: Candidate, student: nn.Module, names: Sequence[str], pairs: Sequence[Pair]
) -> Iterator[Finding]:
    """Compare the number of classes, and their names and order as far as both are known.

    Args:
        candidate: a teacher that could be built.
        student: the student.
        names: of its classes; () if they are not known.
        pairs: those of this teacher.
    """
    assert candidate.teacher is not None
    about = f"teacher {candidate.name}"
    own, its = class_count(student), class_count(candidate.teacher.model)
    level = "error" if compares_classes(pairs) else "warning"
    why = (
        "a pair compares class scores"
        if level == "error"
        else "no pair compares class scores, so it may be meant"
    )
    if own is None or its is None:
        yield Finding("warning", about, "it is not known how many classes student and teacher have")
    elif own != its:
        yield Finding(level, about, f"it has {its} classes and the student has {own}; {why}")  # type: ignore[arg-type]
    elif not names or not candidate.classes:
        who = "the teacher's" if names else "the student's"
        yield Finding(
            "warning",
            about,
            f"{its} classes, as the student, but {who} names are not known: see that the order is the same",
        )
    elif tuple(names) == candidate.classes:
        yield Finding("ok", about, f"the student's classes in the same order: {_short(names)}")
    else:
        same = sorted(names) == sorted(candidate.classes)
        what = "the student's classes in another order" if same else "other classes than the student"
        lists = f"{_short(candidate.classes)}; the student {_short(names)}"
        yield Finding(level, about, f"{what}: {lists}; {why}")  # type: ignore[arg-type]


def _short(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def check_pixels(candidate: Candidate, student: nn.Module) -> Iterator[Finding]:
    """Compare the pixels that teacher and student want, and those that the teacher's weights were trained with."""
    assert candidate.teacher is not None
    about = f"teacher {candidate.name}"
    its, own = pixels_of(candidate.teacher.model), pixels_of(student)
    trained = differing_pixels(candidate.said, its)
    if trained:
        yield Finding(
            "error",
            about,
            f"its weights were trained on other pixels than its config gives: {'; '.join(trained)}",
        )
    if not {"pixel_mean", "pixel_std"} <= its.keys() & own.keys():
        yield Finding(
            "warning",
            about,
            "pixel mean and standard deviation are not known of both models: see that they fit",
        )
    elif its == own:
        yield Finding("ok", about, f"the student's pixels ({_pixels(own)}): images are normalised once")
    elif not isinstance(candidate.teacher, RCNNTeacher):
        yield Finding(
            "warning",
            about,
            f"wants {_pixels(its)}, the student {_pixels(own)}, and gets the student's images",
        )
    elif (
        its.get("input_format") == own.get("input_format")
        and its["pixel_mean"] == own["pixel_mean"][::-1] != its["pixel_mean"][::-1]
    ):
        yield Finding(
            "error",
            about,
            f"its mean is the student's in reverse order, in one format: {_pixels(its)}, the student {_pixels(own)}",
        )
    else:
        yield Finding(
            "ok",
            about,
            f"wants {_pixels(its)}, the student {_pixels(own)}: each gets its own, images are normalised twice",
        )


def _pixels(found: dict[str, object]) -> str:
    mean, std = found.get("pixel_mean"), found.get("pixel_std")
    return f"{found.get('input_format', 'unknown format')}, mean {mean}, std {std}"


def check_cost(candidate: Candidate, student: nn.Module, image: Tensor) -> Iterator[Finding]:
    """Compare parameters and multiply-adds on one image.

    Args:
        candidate: a teacher that could be built.
        student: the student.
        image: (C, H, W), as the student gets it.
    """
    assert candidate.teacher is not None
    about = f"teacher {candidate.name}"
    try:
        its, own = (size_and_work(model, image) for model in (candidate.teacher.model, student))
    except TROUBLES as error:
        yield Finding("warning", about, f"its cost cannot be measured: {error_text(error)}")
        return
    parameters, work = its[0] / own[0], its[1] / own[1]
    small = parameters < 1 and work < 1
    text = (
        f"{its[0]:.2f} M parameters and {its[1]:.2f} GFLOPs (1 is 1e9 multiply-adds) on {image.shape[1]}x"
        f"{image.shape[2]} pixels, {parameters:.1f} and {work:.1f} times the student's {own[0]:.2f} M and {own[1]:.2f}"
    )
    yield Finding(
        "warning" if small else "ok", about, f"{text}{': it is the smaller network' if small else ''}"
    )


def size_and_work(model: nn.Module, image: Tensor) -> tuple[float, float]:
    """Return a model's parameters in millions, and its GFLOPs on an image."""
    return sum(p.numel() for p in model.parameters()) / 1e6, giga_multiply_adds(model, image)
