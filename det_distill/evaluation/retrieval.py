"""How well embeddings find the images of an identity: recall at k and mean average precision."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

from ..losses.arithmetic import directions

__all__ = ["Retrieval", "RetrievalEvaluator", "retrieval"]

logger = logging.getLogger(__name__)


class Retrieval(NamedTuple):
    """Result of `retrieval`, of the queries that have something to find.

    ``first``: the place, from 1, of the first image of the query's identity, int64 (Q,). ``precision``: the average
    precision, float64 (Q,). ``rows``: which queries these are, int64 (Q,).
    """

    first: Tensor
    precision: Tensor
    rows: Tensor

    def recall(self, k: int) -> float:
        """Return the part of the queries with an image of their identity among the first k; NaN without a query."""
        return float((self.first <= k).double().mean())

    def mean_average_precision(self) -> float:
        """Return the mean over queries; NaN without one."""
        return float(self.precision.mean())


def retrieval(
    queries: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    block: int = 256,
) -> Retrieval:
    """Sort, for each query, the gallery by cosine similarity, and look where the images of its identity are.

    Average precision is the mean, over the n images of the query's identity, of i / (place of the i-th of them).
    Queries whose identity has no image in the gallery are left out. Of equal similarities the images of other
    identities come first: embeddings that say nothing find nothing. A zero embedding has the similarity 0 to all,
    one that is not finite is the farthest of all.

    Args:
        queries: embeddings (Q, D) of any length but zero; normalised here, in float32 at least.
        labels: their identities, (Q,).
        gallery: embeddings (N, D); None: the queries, each against all others, told by its row.
        gallery_labels: their identities, (N,); None: of the queries.
        block: queries at once; memory is some 40 * block * N bytes.

    Raises:
        ValueError: shapes that do not fit, or a gallery without its labels.
    """
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("a gallery needs its labels, and labels a gallery")
    others, identities = (queries, labels) if gallery is None else (gallery, gallery_labels)
    assert identities is not None
    _check(queries, labels, others, identities)
    queries, others = (
        directions(e.to(torch.promote_types(e.dtype, torch.float32))) for e in (queries, others)
    )
    found: list[Retrieval] = []
    for rows in torch.arange(len(queries), device=queries.device).split(block):
        similarity = (queries[rows] @ others.T).nan_to_num(nan=-2.0)
        match = labels[rows, None] == identities[None]
        if gallery is None:  # itself: last, and no match
            here = torch.arange(len(rows), device=rows.device)
            similarity[here, rows], match[here, rows] = -torch.inf, False
        if match.any():
            found.append(_places(similarity, match, rows))
    if not found:
        return Retrieval(labels.new_zeros(0), torch.zeros(0, dtype=torch.float64), labels.new_zeros(0))
    return Retrieval(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _places(similarity: Tensor, match: Tensor, rows: Tensor) -> Retrieval:
    """The result of some queries, from (Q, N) of each."""
    keep = match.any(1)
    similarity, match, rows = similarity[keep], match[keep], rows[keep]
    worst_first = match.to(torch.uint8).argsort(dim=1, stable=True)
    order = similarity.gather(1, worst_first).argsort(dim=1, descending=True, stable=True)
    match = match.gather(1, worst_first).gather(1, order)
    place = torch.arange(1, match.shape[1] + 1, device=match.device)
    precision = torch.where(match, match.cumsum(1).double() / place, 0.0).sum(1) / match.sum(1)
    first = match.to(torch.uint8).argmax(1) + 1
    return Retrieval(first, precision, rows)


def _check(queries: Tensor, labels: Tensor, gallery: Tensor, identities: Tensor) -> None:
    fits = queries.dim() == gallery.dim() == 2 and queries.shape[1] == gallery.shape[1]
    if not fits or labels.shape != queries.shape[:1] or identities.shape != gallery.shape[:1]:
        raise ValueError(
            "retrieval compares embeddings (Q, D) with labels (Q,) and (N, D) with labels (N,), not "
            + ", ".join(str(tuple(t.shape)) for t in (queries, labels, gallery, identities))
        )


class RetrievalEvaluator(DatasetEvaluator):
    """Recall at k and mean average precision of the embeddings of a test set, by `retrieval`.

    Every image is a query against all others; or, where the dataset's dicts have the key ``role``, those with
    ``"query"`` against those with ``"gallery"``. Returns ``{"retrieval": {"R1", "R5", "R10", "mAP", "queries"}}``, in
    percent but for the number of queries, which are the images with something to find; NaN without any. An image that
    comes twice counts once, as it came last.

    Not implemented: leaving out images of the query's own camera, as in person re-identification.

    Args:
        ks: the k of recall.
        device: where similarities are computed; None: where the embeddings are. Sorting takes most of the time.
        block: queries at once, see `retrieval`.

    Raises:
        ValueError: a k below 1.
    """

    def __init__(
        self, ks: Sequence[int] = (1, 5, 10), *, device: str | torch.device | None = None, block: int = 256
    ) -> None:
        if not ks or min(ks) < 1:
            raise ValueError(f"recall at k needs a k of 1 or more, not {tuple(ks)}")
        self._ks, self._device, self._block = tuple(ks), device, block
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._seen: dict[Any, tuple[np.ndarray, int, str]] = {}
        self._where: torch.device = torch.device("cpu")

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Take one batch; embeddings wait in the main memory, in float32.

        Args:
            inputs: dicts with ``label`` and ``image_id``, and perhaps ``role``.
            outputs: dicts with ``embedding``, (D,), in the same order.

        Raises:
            ValueError: a role that is neither ``"query"`` nor ``"gallery"``.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            role = sample.get("role", "")
            if role not in ("", "query", "gallery"):
                raise ValueError(
                    f"image {sample['image_id']!r}: role {role!r} is neither 'query' nor 'gallery'"
                )
            self._where = output["embedding"].device
            vector = output["embedding"].detach().float().cpu().numpy()
            self._seen[sample["image_id"]] = (vector, int(sample["label"]), role)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather all processes' images; return the results on the main process, {} on the others and without any.

        Raises:
            ValueError: some images have a role and others none.
        """
        gathered = comm.gather(self._seen, dst=0)
        if not comm.is_main_process():
            return {}
        seen = {k: v for part in gathered for k, v in part.items()}
        if not seen:
            return {}
        vectors, labels, roles = zip(*(seen[k] for k in sorted(seen, key=str)), strict=True)
        device = self._device or self._where
        embeddings = torch.from_numpy(np.stack(vectors)).to(device)
        identities = torch.tensor(labels, device=device)
        result = self._retrieve(embeddings, identities, np.array(roles))
        if len(result.rows) == 0:
            logger.warning("no image has another one of its identity: there is nothing to retrieve")
        table = {f"R{k}": 100 * result.recall(k) for k in self._ks}
        table.update(mAP=100 * result.mean_average_precision(), queries=float(len(result.rows)))
        return OrderedDict(retrieval=table)

    def _retrieve(self, embeddings: Tensor, labels: Tensor, roles: np.ndarray) -> Retrieval:
        if not (roles != "").any():
            return retrieval(embeddings, labels, block=self._block)
        if (roles == "").any():
            raise ValueError(
                f"{(roles == '').sum()} of {len(roles)} images have no 'role': give all of them one, or none"
            )
        query, gallery = (
            torch.from_numpy(np.flatnonzero(roles == r)).to(labels.device) for r in ("query", "gallery")
        )
        return retrieval(
            embeddings[query], labels[query], embeddings[gallery], labels[gallery], block=self._block
        )
