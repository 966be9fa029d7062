"""Box regression: the student's box deltas of foreground RoIs are pulled to the teacher's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .inputs import full_precision, prepare

DELTAS = 4
"""Numbers that move a proposal to a box: dx, dy, dw, dh."""


class BoxRegression(nn.Module):
    """Smooth L1 distance of the four deltas that each model applies to the same foreground proposal.

        d = deltas_s - deltas_t,     smooth L1(d) = d^2 / (2 beta) where |d| < beta, else |d| - beta / 2

    Summed over the four deltas, then the mean over the foreground rows: divided by their number, where
    detectron2's own box loss divides the same sum by all rows, background included. (R, 4) is one box whatever
    the class; of (R, 4 K), four columns a class, the four of the row's label count. The two sides may differ in
    that. Rows of the background, whose deltas nothing trains, are left out; no foreground row gives 0. Zero with
    zero gradient at equal deltas. The teacher's side is detached, arithmetic is in float32.

    The deltas are compared as the predictors put them out. Both models must scale them alike: one
    ``BBOX_REG_WEIGHTS``, which is not checked here.

    Source: none; the formula is detectron2's box loss with the teacher's deltas as the target. Not implemented:
    the teacher-bounded loss of Chen et al., "Learning Efficient Object Detection Models with Knowledge
    Distillation", NIPS 2017, which acts only where the student is farther than the teacher from the ground
    truth and so needs its deltas; nor the decoded boxes' overlap.

    Args:
        beta: where the loss turns from quadratic to linear; 0 is plain L1, detectron2's default for its own.
    """

    needs = ("labels", "foreground")
    needs_equal_channels = False

    def __init__(self, beta: float = 0.0) -> None:
        super().__init__()
        if not beta >= 0:
            raise ValueError(f"BoxRegression: beta must be 0 (plain L1) or above, not {beta}.")
        self.beta = beta

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        valid: Tensor | None = None,
        *,
        labels: Tensor,
        foreground: Tensor,
    ) -> Tensor:
        """Compare deltas (R, 4) or (R, 4 K) of rows; see the class. Returns a scalar.

        Args:
            student: the student's deltas.
            teacher: the teacher's, of the same proposals.
            valid: must be None: there are no maps here.
            labels: int64 (R,), the class of each row.
            foreground: bool (R,), whether that is an object.

        Raises:
            ValueError: no rows of deltas, unequal counts of rows, or unequal counts of classes.
        """
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid, channels=False)
            if student.dim() != 2:
                raise ValueError(
                    f"BoxRegression compares box deltas of RoIs, rows (R, 4), not maps {tuple(student.shape)}."
                )
            check_deltas(student.shape[1], teacher.shape[1])
            rows = foreground.nonzero()[:, 0]
            labels = labels[rows]
            ours, theirs = _of_class(student[rows], labels), _of_class(teacher[rows], labels)
            if ours.numel() == 0:
                return student.sum() * 0
            return F.smooth_l1_loss(ours, theirs, reduction="none", beta=self.beta).sum(1).mean()

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"beta={self.beta}"


def _of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """The four deltas (R, 4) that hold for each row's class, from (R, 4) or (R, 4 K)."""
    if deltas.shape[1] == DELTAS:
        return deltas
    per_class = deltas.unflatten(1, (-1, DELTAS))
    return per_class.gather(1, labels[:, None, None].expand(-1, 1, DELTAS))[:, 0]


def check_deltas(student: int, teacher: int) -> None:
    """Raise a ValueError unless the two widths are four deltas, or four for each of equally many classes."""
    if student % DELTAS or teacher % DELTAS or not student or not teacher:
        raise ValueError(
            "BoxRegression compares box deltas of RoIs, (R, 4) or (R, 4 * classes), such as "
            f"roi_heads.box_predictor:1 gives; here the student has {student} columns, the teacher {teacher}."
        )
    if student != teacher and DELTAS not in (student, teacher):
        raise ValueError(
            f"BoxRegression: the student has boxes for {student // DELTAS} classes, the teacher for "
            f"{teacher // DELTAS}. Train both on the same classes, or one with boxes that do not depend on the class."
        )
