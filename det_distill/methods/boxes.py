"""What the teacher says of the boxes."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..losses import BoxRegression
from ..losses.box_regression import check_deltas
from ..taps import module_path, resolve
from .sides import Parts, Side


def box_regression(student: Side, teacher: Side, *, beta: float = 0.0) -> Parts:
    """Box deltas of foreground RoIs, those of each row's class; see `BoxRegression`.

    Args:
        student: the student's deltas, ``roi_heads.box_predictor:1``.
        teacher: the teacher's, with the same ``BBOX_REG_WEIGHTS``.
        beta: where the smooth L1 distance turns from quadratic to linear; 0: plain L1.

    Raises:
        ValueError: maps, class logits, deltas of unequal numbers of classes, or deltas that the models scale
            differently, as far as the models tell.
    """
    if student.is_map:
        raise ValueError(
            f"{student.address!r}: BoxRegression compares the deltas of RoIs, and this is a map; use "
            "'roi_heads.box_predictor:1'"
        )
    for side in (student, teacher):
        if _are_logits(side):
            raise ValueError(
                f"BoxRegression compares box deltas, and {side.address!r} gives class logits: use "
                "'roi_heads.box_predictor:1'"
            )
    own, its = _columns(student), _columns(teacher)
    if own and its:
        check_deltas(own, its)
    _check_scales(student, teacher)
    return Parts(BoxRegression(beta))


def _predictor(side: Side) -> nn.Module | None:
    """The box predictor that an address names, or names a layer of; None: it is something else, or not known."""
    if side.model is None or "@" in side.address:
        return None
    path = module_path(side.address)
    for owner in (path, path.rpartition(".")[0]):
        module = resolve(side.model, owner) if owner else None
        if hasattr(module, "cls_score") and hasattr(module, "bbox_pred"):
            return module
    return None


def _are_logits(side: Side) -> bool:
    predictor = _predictor(side)
    if predictor is None or side.model is None:
        return False
    return side.address.endswith(":0") or resolve(side.model, side.address) is predictor.cls_score


def _columns(side: Side) -> int | None:
    """How many numbers a row of deltas has."""
    layer = getattr(_predictor(side), "bbox_pred", None)
    return side.spec.channels or getattr(layer, "out_features", None)


def _check_scales(student: Side, teacher: Side) -> None:
    own, its = (_scales(_predictor(side)) for side in (student, teacher))
    if own and its and own != its:
        raise ValueError(
            f"BoxRegression: the student scales its box deltas by {own}, the teacher by {its}: train both with one "
            "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"
        )


def _scales(predictor: Any) -> tuple[float, ...]:
    transform = getattr(predictor, "box2box_transform", None)
    return tuple(float(w) for w in getattr(transform, "weights", ()))
