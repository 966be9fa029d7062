"""Feature mimicking."""

from __future__ import annotations

import logging
from typing import Literal

from torch import nn

from ..losses import L2, LSH
from .sides import Parts, Side, channel_adapter

logger = logging.getLogger(__name__)


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
    return Parts(losses, channel_adapter(student, teacher, adapter), weights={n: weights[n] for n in losses})


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
