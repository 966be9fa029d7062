"""Factor transfer and its ablations."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..adapters import Reconstructor, Translator
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
    layers: int = 3,
    batch_norm: bool = False,
    translator: bool = True,
    translator_batch_norm: bool = False,
    paraphraser_kind: Literal["paraphraser", "autoencoder", "none"] = "paraphraser",
    paraphraser: str = "",
) -> Parts:
    """Factor transfer, Kim, Park and Kwak, NeurIPS 2018 (Jangho-Kim/Factor-Transfer-pytorch).

    The teacher's map goes through the encoder of a paraphraser that was trained before, without labels, by the
    ``ParaphraserPretrainer``; the student's through a translator that is trained with it. Both networks can be left
    out, made deeper or shallower, or exchanged for a down-sampling auto-encoder and a translator of its form.

    Args:
        student: the student's map.
        teacher: the teacher's map.
        rate: factor channels / teacher channels; must be the paraphraser's.
        p: 1 (authors' code) or 2.
        reduction: of `FactorTransfer`; ``"scaled"`` makes one weight mean the same on maps of every size.
        layers: convolutions of translator, encoder and decoder (authors: 3); must be the paraphraser's.
        batch_norm: whether the paraphraser has batch normalisation.
        translator: False: the student's map itself is compared with the teacher's factor.
        translator_batch_norm: whether the translator has batch normalisation.
        paraphraser_kind: ``"paraphraser"`` (keeps the map's size), ``"autoencoder"`` (halves it) or ``"none"``: the
            teacher's map itself is the factor, and `rate`, `batch_norm` and `paraphraser` mean nothing.
        paraphraser: checkpoint of the ``ParaphraserPretrainer``.

    Raises:
        ValueError: vectors; no file is named, or it does not fit this teacher, this address and these options; an
            unknown kind; no translator where the student's map has another shape than the factor.
        FileNotFoundError: the file does not exist.
    """
    for side in (student, teacher):
        side.need_maps("FactorTransfer")
    frozen = None
    if paraphraser_kind != "none":
        frozen = trained_paraphraser(
            paraphraser,
            teacher.address,
            teacher.channels,
            rate,
            kind=paraphraser_kind,
            layers=layers,
            batch_norm=batch_norm,
            teacher=teacher.teacher.fingerprint if teacher.teacher else None,
        )
    own = (
        _translator(student, teacher, frozen, layers, batch_norm=translator_batch_norm)
        if translator
        else None
    )
    if not translator:
        _check_plain_student(student, teacher, frozen, translator_batch_norm)
    return Parts(FactorTransfer(p=p, reduction=reduction), own, frozen)


def _translator(
    student: Side, teacher: Side, frozen: Reconstructor | None, layers: int, *, batch_norm: bool
) -> nn.Module:
    if frozen is None:
        return Translator(student.channels, teacher.channels, layers=layers, batch_norm=batch_norm)
    return frozen.translator(student.channels, batch_norm=batch_norm)


def _check_plain_student(
    student: Side, teacher: Side, frozen: Reconstructor | None, batch_norm: bool
) -> None:
    """Raise a ValueError unless the student's map can be compared with the factor as it is."""
    if batch_norm:
        raise ValueError("TRANSLATOR: False leaves nothing for TRANSLATOR_BATCH_NORM: True to apply to")
    if getattr(frozen, "downsampling", 1) != 1:
        raise ValueError(
            "TRANSLATOR: False compares the student's map itself, but the factor of an autoencoder is half as "
            "high and wide: set TRANSLATOR: True, or PARAPHRASER_KIND to 'paraphraser' or 'none'"
        )
    factor = frozen.factor_channels if frozen else teacher.channels
    if student.channels != factor:
        how = "set RATE so that they agree" if frozen else "use a paraphraser whose RATE makes them agree"
        raise ValueError(
            f"TRANSLATOR: False compares the student's map itself, but {student.address!r} has {student.channels} "
            f"channels and the factor of {teacher.address!r} has {factor}: {how} (RATE {student.channels} / "
            f"{teacher.channels} = {student.channels / teacher.channels:.4g}), or set TRANSLATOR: True"
        )
