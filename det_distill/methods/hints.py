"""Hint training (FitNets)."""

from __future__ import annotations

from typing import Literal

from ..adapters import Conv1x1, Conv3x3, Linear
from ..losses import L2
from .sides import Parts, Side, channel_adapter

REGRESSORS = {"conv1x1": Conv1x1, "conv3x3": Conv3x3, "linear": Linear}


def fitnets(
    student: Side,
    teacher: Side,
    *,
    regressor: Literal["auto", "conv1x1", "conv3x3", "linear"] = "auto",
) -> Parts:
    """Hint training, Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (adri-romsor/FitNets 0f633b1).

    The student's guided layer, through a regressor that is trained with it and left behind, imitates the teacher's hint
    layer: `L2`, the mean of the squared difference over all elements.

    The value. The authors' code has 1/2 of the squared difference, summed over one axis of the tensor and averaged over
    the others: this value times half the length of that axis. In their first stage it is the only loss and such a
    factor is one of the learning rate; with other losses beside it, it belongs to the pair's weight.

    Two stages, as the authors train: first the student up to the guided layer by this loss alone
    (``DISTILL.TASK_WEIGHT`` 0, ``DISTILL.TRAIN_ONLY``), then everything from those weights by the task and soft
    targets, without this pair. Beside the task's loss from the start, as RepDistiller has it (weight 100), it is a
    third-party form.

    Not implemented: the regressor's non-linearity, which in the authors' code is that of the teacher's hint layer (here
    it is linear, as for the outputs of an FPN, which have none), its kernel that shrinks a larger map of the student to
    the teacher's (here the pair aligns the maps), its bound on the norm of the weights, and the cross-entropy in place
    of the squared difference for teachers with tanh or sigmoid.

    Args:
        student: the guided layer.
        teacher: the hint layer.
        regressor: ``"auto"``: none where the channels are equal, as the authors do, else ``"conv1x1"`` (their choice on
            maps of one size) for a map and ``"linear"`` for vectors; or always ``"conv1x1"``, ``"conv3x3"`` or
            ``"linear"``.

    Raises:
        ValueError: an unknown regressor, one for vectors on a map, or one for maps on vectors.
    """
    if regressor == "auto":
        return Parts(L2(), channel_adapter(student, teacher, "auto"))
    if regressor not in REGRESSORS:
        raise ValueError(f"REGRESSOR {regressor!r}: choose 'auto', 'conv1x1', 'conv3x3' or 'linear'")
    if regressor == "linear" and student.is_map:
        raise ValueError(
            f"{student.address!r} is a map, and REGRESSOR 'linear' takes vectors: choose 'conv1x1', its like for maps"
        )
    if regressor != "linear":
        student.need_maps(f"FitNets with REGRESSOR {regressor!r}")
    return Parts(L2(), REGRESSORS[regressor](student.channels, teacher.channels))
