"""What the teacher says of the boxes."""

from __future__ import annotations

from ..losses import BoxRegression
from ..losses.box_regression import check_deltas
from .sides import Parts, Side


def box_regression(student: Side, teacher: Side, *, beta: float = 0.0) -> Parts:
    """Box deltas of foreground RoIs, those of each row's class; see `BoxRegression`.

    Args:
        student: the student's deltas, ``roi_heads.box_predictor:1``.
        teacher: the teacher's, with the same ``BBOX_REG_WEIGHTS``.
        beta: where the smooth L1 distance turns from quadratic to linear; 0: plain L1.

    Raises:
        ValueError: maps, or deltas of unequal numbers of classes.
    """
    if student.is_map:
        raise ValueError(
            f"{student.address!r}: BoxRegression compares the deltas of RoIs, and this is a map; use "
            "'roi_heads.box_predictor:1'"
        )
    own, its = student.spec.channels, teacher.spec.channels
    if own and its:
        check_deltas(own, its)
    return Parts(BoxRegression(beta))
