"""Feature mimicking."""

from __future__ import annotations

import logging
from typing import Literal

from torch import nn

from ..adapters import Neighbourhood
from ..adapters.neighbourhood import CELLS
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
    neighbourhood: bool = False,
) -> Parts:
    """Feature mimicking, Wang, Ge and Wu (DoctorKey/LSHFM.singleclassification and LSHFM.detection).

    ``L2`` and ``LSH`` are two losses on one adapted feature; the authors use both with one weight (7 on the box-head
    feature of Faster R-CNN). Their default for classification, only samples that the teacher classifies correctly, is
    the pair's key ``SELECT: "teacher_correct"``.

    The linear embedding of a narrower student stays in the deployed student if it is the student's own: a classifier's
    ``MODEL.CLASSIFIER.EMBEDDING_DIM``, or the last layer of a box head whose ``FC_DIM`` is the teacher's. The `adapter`
    here is for students whose heads stay as they are; it is left behind at export. The authors' two stages, first
    the embedding alone by the mimicking loss, then everything, are two trainings: ``DISTILL.TASK_WEIGHT`` 0 with
    ``DISTILL.TRAIN_ONLY``, then from its weights without them.

    In RetinaNet the authors mimic, at every level, the 3x3 neighbourhood of each cell of the last map of the
    classification tower (`Neighbourhood`). Where we differ: each level is a pair, with a mean of its own, where they
    take one mean over the cells of all levels, most of which are the finest level's; and all cells count, or with
    ``SELECT: "foreground"`` those inside ground-truth boxes. Their filter means to leave out cells without a matched
    anchor, but drops a cell only if all nine of its anchors are in the ignored band, so that practically the whole map
    counts: ``SELECT: "all"`` is their parity.

    Args:
        student: the student's feature; vectors such as the box head's, or maps, each cell of which is a sample.
        teacher: the teacher's feature.
        l2: mean-all squared difference.
        lsh: locality-sensitive hashing.
        l2_weight: factor of the L2 term within the pair's weight.
        lsh_weight: factor of the hashing term.
        hashes: number of hash functions; 0: four times the teacher's channels, as the authors do in detection, or 16
            times with `neighbourhood` (their 4096 for 256 channels).
        std: of the hash weights; 0: the standard deviation of the teacher's classifier weight, as the authors do.
        bias: ``"median"``, ``"mean"`` (estimated before training) or ``"zero"`` (the authors' detection code).
        distance: ``"bce"``, ``"l1"`` or ``"l2"`` between hash values.
        max_norm_ratio: guard against the divergence of hashing alone: a student feature counts as no longer than
            this many times the teacher's. 0: 2.0 when there is nothing else to hold the norm (no L2 term, or a zero
            bias), off otherwise; negative: off.
        adapter: ``"auto"`` (a linear map of the student's channels where they differ), ``"linear"`` (always) or
            ``"none"``.
        neighbourhood: compare the 3x3 neighbourhoods of the cells of maps, nine times as wide and as large. It comes
            after the adapter, which then is one map of a cell's channels wherever the cell stands in a neighbourhood,
            and leaves the zeros outside the map zero, as on the teacher's side.

    Raises:
        ValueError: neither term is on, an unknown choice, neighbourhoods of vectors, or no classifier to take the
            default `std` from.
    """
    if not (l2 or lsh):
        raise ValueError("feature mimicking with L2: False and LSH: False has no loss; switch one on")
    if neighbourhood:
        for side in (student, teacher):
            side.need_maps("FeatureMimicking with NEIGHBOURHOOD")
    losses: dict[str, nn.Module] = {}
    if l2:
        losses["l2"] = L2()
    if lsh:
        losses["lsh"] = LSH.random(
            teacher.channels * (CELLS if neighbourhood else 1),
            hashes or teacher.channels * (16 if neighbourhood else 4),
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
    own, its = channel_adapter(student, teacher, adapter), None
    if neighbourhood:
        own, its = nn.Sequential(*filter(None, [own]), Neighbourhood()), Neighbourhood()
    return Parts(losses, own, its, weights={n: weights[n] for n in losses})


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
