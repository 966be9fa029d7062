"""Factor transfer."""

from __future__ import annotations

from typing import Literal

from ..adapters import Translator
from ..losses import FactorTransfer
from ..paraphrasers import trained_paraphraser
from .sides import Parts, Side


def factor_transfer(
    student: Side,
    teacher: Side,
    *,
    rate: float = 0.5,
    p: int = 1,
    reduction: Literal["mean", "sum", "scaled"] = "mean",
    batch_norm: bool = False,
    translator_batch_norm: bool = False,
    paraphraser: str = "",
) -> Parts:
    """Factor transfer, Kim, Park and Kwak, NeurIPS 2018 (Jangho-Kim/Factor-Transfer-pytorch).

    The teacher's map goes through the encoder of a paraphraser that was trained before, without labels, by the
    ``ParaphraserPretrainer``; the student's through a translator that is trained with it.

    Args:
        student: the student's map.
        teacher: the teacher's map.
        rate: factor channels / teacher channels; must be the paraphraser's.
        p: 1 (authors' code) or 2.
        reduction: of `FactorTransfer`; ``"scaled"`` makes one weight mean the same on maps of every size.
        batch_norm: whether the paraphraser has batch normalisation.
        translator_batch_norm: whether the translator has it.
        paraphraser: checkpoint of the ``ParaphraserPretrainer``.

    Raises:
        ValueError: no file is named, or it does not fit this teacher and this address.
        FileNotFoundError: the file does not exist.
    """
    frozen = trained_paraphraser(
        paraphraser,
        teacher.address,
        teacher.channels,
        rate,
        batch_norm=batch_norm,
        teacher=teacher.teacher.fingerprint if teacher.teacher else None,
    )
    translator = Translator(student.channels, frozen.factor_channels, batch_norm=translator_batch_norm)
    return Parts(FactorTransfer(p=p, reduction=reduction), translator, frozen)
