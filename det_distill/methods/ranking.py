"""Ranking of embeddings."""

from __future__ import annotations

from typing import Literal

from ..losses import DarkRank
from ..targets import is_detector
from .sides import Parts, Side


def dark_rank(
    student: Side,
    teacher: Side,
    *,
    mode: Literal["hard", "soft"] = "hard",
    alpha: float = 3.0,
    beta: float = 3.0,
    candidates: Literal["nearest", "all"] = "nearest",
    list_length: int = 4,
    queries: Literal["all", "first_half", "spaced", "drawn"] = "all",
    query_count: int = 64,
    detach_query: bool = False,
    normalize: bool = True,
) -> Parts:
    """DarkRank, Chen, Wang and Zhang, AAAI 2018 (TuSimple/DarkRank; the defaults are those of lenscloth/RKD).

    On embeddings of images (``embedding``) or of RoIs (``roi_heads.box_head``); the student ranks the other samples of
    the batch as the teacher does. Only distances within each side count, so the widths may differ and there is no
    adapter. In distributed training each process ranks the samples of its own part of the batch.

    Args:
        student: the student's embeddings; of maps, the mean over each image's cells.
        teacher: the teacher's.
        mode: ``"hard"``, the likelihood of the teacher's order, or ``"soft"``, the divergence over all orders.
        alpha: factor of a distance's power in the score.
        beta: that power.
        candidates: ``"nearest"``, the teacher's nearest `list_length`, or ``"all"`` others.
        list_length: of ``"nearest"``; at most 5 in soft mode.
        queries: ``"all"`` rows, the ``"first_half"``, or `query_count` of them, ``"spaced"`` evenly or ``"drawn"``.
        query_count: of ``"spaced"`` and ``"drawn"``.
        detach_query: leave out the query's share of the gradient, as TuSimple's code does.
        normalize: divide embeddings by their length first; False where the models do so.

    Raises:
        ValueError: an option that makes no sense, or maps of a detector.
    """
    if student.is_map and is_detector(student.model):
        raise ValueError(
            f"{student.address!r} is a map, of which DarkRank makes one embedding an image, and a detector's batches "
            "have too few images to rank: name the embeddings of RoIs, 'roi_heads.box_head', with SELECT: 'foreground'"
        )
    return Parts(
        DarkRank(
            alpha,
            beta,
            mode=mode,
            candidates=candidates,
            list_length=list_length,
            queries=queries,
            query_count=query_count,
            detach_query=detach_query,
            normalize=normalize,
        )
    )
