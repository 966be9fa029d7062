"""Feature-level ensemble for knowledge distillation: factor transfer from several teachers, without paraphrasers."""

from __future__ import annotations

from typing import Literal

from ..adapters import Translator
from ..losses import FactorTransfer
from .sides import Parts, Side


def feed(
    student: Side,
    teacher: Side,
    *,
    reduction: Literal["mean", "sum", "scaled"] = "mean",
    translator_batch_norm: bool = False,
) -> Parts:
    """FEED, Park and Kwak 2019: the student's map, through one translator per teacher, resembles each teacher's map.

        sum over teachers i of   sum | X_i / ||X_i||_2 - T_i(S) / ||T_i(S)||_2 |

    X_i is the map of teacher i as it is, S the student's, T_i a `Translator` of three 3x3 convolutions that no other
    teacher shares, and the norms are over all elements of one image's map: `FactorTransfer` with p = 1, which also
    says what `reduction` divides by. A pair that names several teachers in ``TEACHER_NAMES`` calls this function once
    for each, and ``AGGREGATE`` adds or averages. One teacher gives factor transfer without a paraphraser.

    The transforms stand on the student's side: on the teacher's, untrained ones would let both sides fall to a
    constant. Trained and frozen ones are ``FactorTransfer`` with a paraphraser.

    Source: no code of the authors is known, and the form above is a reading without their numbers. Not confirmed are
    whether they add or average over teachers, the weight, and whether there is batch normalisation. Sequential FEED,
    where each student is the next one's teacher, is this method in several runs.

    Args:
        student: the student's map.
        teacher: one teacher's map.
        reduction: of `FactorTransfer`; ``"scaled"`` makes one weight mean the same on maps of every size.
        translator_batch_norm: whether the translators have batch normalisation.

    Raises:
        ValueError: vectors, or a model that does not declare its channels.
    """
    for side in (student, teacher):
        side.need_maps("FEED")
    translator = Translator(student.channels, teacher.channels, batch_norm=translator_batch_norm)
    return Parts(FactorTransfer(p=1, reduction=reduction), translator)
