"""The list of methods: name -> adapters and loss, one function per method.

A method is a function of the two sides and keyword options. Its options are the pair's options in a config, in upper
case: ``RATE: 0.5`` is ``rate=0.5``. To add a method, write a function here and name it in `METHODS`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from torch import nn

from .adapters import Conv1x1, Linear, Translator
from .losses import L2, LSH, FactorTransfer
from .paraphrasers import trained_paraphraser
from .taps import FeatureSpec
from .teachers import Teacher

__all__ = ["METHODS", "Parts", "Side", "factor_transfer", "feature_mimicking", "method_options"]

logger = logging.getLogger(__name__)


class Side(NamedTuple):
    """One side of a pair as a method sees it."""

    address: str
    spec: FeatureSpec
    teacher: Teacher | None = None

    @property
    def channels(self) -> int:
        """The feature's channels.

        Raises:
            ValueError: the model does not declare them.
        """
        if self.spec.channels is None:
            raise ValueError(
                f"the channels of {self.address!r} are not declared by the model: set "
                "STUDENT_CHANNELS / TEACHER_CHANNELS of the pair"
            )
        return self.spec.channels

    @property
    def is_map(self) -> bool:
        """Whether this is known to be a feature map, by its having a stride."""
        return self.spec.stride is not None


class Parts(NamedTuple):
    """What a method returns: the loss or losses, and the adapters in front of them."""

    loss: nn.Module | Mapping[str, nn.Module]
    student_adapter: nn.Module | None = None
    teacher_adapter: nn.Module | None = None
    weights: Mapping[str, float] | None = None


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


def feature_mimicking(
    student: Side,
    teacher: Side,
    *,
    l2: bool = True,
    lsh: bool = False,
    l2_weight: float = 1.0,
    lsh_weight: float = 1.0,
    hashes: int = 0,
    std: float = 0.0,
    bias: Literal["zero", "mean", "median"] = "median",
    distance: Literal["bce", "l1", "l2"] = "bce",
    max_norm_ratio: float = 0.0,
    adapter: str = "auto",
) -> Parts:
    """Feature mimicking, Wang, Ge and Wu (DoctorKey/LSHFM.singleclassification and LSHFM.detection).

    ``L2`` and ``LSH`` are two losses on one adapted feature; the authors use both with one weight (7 on the box-head
    feature of Faster R-CNN). Not implemented here: the variant that keeps only samples that the teacher classifies
    correctly, and the linear embedding that stays in the deployed student.

    Args:
        student: the student's feature; vectors such as the box head's, or maps, each cell of which is a sample.
        teacher: the teacher's feature.
        l2: mean-all squared difference.
        lsh: locality-sensitive hashing.
        l2_weight: factor of the L2 term within the pair's weight.
        lsh_weight: factor of the hashing term.
        hashes: number of hash functions; 0: four times the teacher's channels, as the authors do in detection.
        std: of the hash weights; 0: the standard deviation of the teacher's classifier weight, as the authors do.
        bias: ``"median"``, ``"mean"`` (estimated before training) or ``"zero"`` (the authors' detection code).
        distance: ``"bce"``, ``"l1"`` or ``"l2"`` between hash values.
        max_norm_ratio: guard against the divergence of hashing alone: a student feature counts as no longer than
            this many times the teacher's. 0: 2.0 when there is nothing else to hold the norm (no L2 term, or a zero
            bias), off otherwise; negative: off.
        adapter: ``"auto"`` (a linear map of the student's channels where they differ), ``"linear"`` (always) or
            ``"none"``.

    Raises:
        ValueError: neither term is on, an unknown choice, or no classifier to take the default `std` from.
    """
    if not (l2 or lsh):
        raise ValueError("feature mimicking with L2: False and LSH: False has no loss; switch one on")
    losses: dict[str, nn.Module] = {}
    if l2:
        losses["l2"] = L2()
    if lsh:
        losses["lsh"] = LSH.random(
            teacher.channels,
            hashes or 4 * teacher.channels,
            std or _classifier_std(teacher),
            bias=bias,
            distance=distance,
            max_norm_ratio=_norm_guard(
                max_norm_ratio,
                diverges=distance == "bce" and (not l2 or bias == "zero"),
                address=teacher.address,
            ),
        )
    weights = {"l2": l2_weight, "lsh": lsh_weight}
    return Parts(losses, _embedding(student, teacher, adapter), weights={n: weights[n] for n in losses})


def _norm_guard(ratio: float, *, diverges: bool, address: str) -> float | None:
    if ratio or not diverges:
        return ratio if ratio > 0 else None
    logger.info(
        "%s: hashing with nothing to hold the norm, so student features count as no longer than twice the teacher's "
        "(MAX_NORM_RATIO)",
        address,
    )
    return 2.0


def _classifier_std(teacher: Side) -> float:
    weight = teacher.teacher.classifier_weight() if teacher.teacher else None
    if weight is None:
        raise ValueError(
            f"{teacher.address!r}: this teacher has no classifier whose weight gives the hashes' standard deviation: "
            "set STD"
        )
    return float(weight.float().std())


def _embedding(student: Side, teacher: Side, adapter: str) -> nn.Module | None:
    if adapter not in ("auto", "linear", "none"):
        raise ValueError(f"ADAPTER {adapter!r}: choose 'auto', 'linear' or 'none'")
    if adapter == "none" or (adapter == "auto" and student.channels == teacher.channels):
        return None
    return (Conv1x1 if student.is_map else Linear)(student.channels, teacher.channels)


METHODS: dict[str, Callable[..., Parts]] = {
    "FactorTransfer": factor_transfer,
    "FeatureMimicking": feature_mimicking,
}


def method_options(name: str) -> dict[str, object]:
    """Return a method's options and their defaults.

    Raises:
        ValueError: an unknown method; the message lists the known ones.
    """
    if name not in METHODS:
        raise ValueError(f"METHOD {name!r} is unknown; choose one of {', '.join(sorted(METHODS))}")
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
