"""How many images a classifier gets right."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor

__all__ = ["ClassificationEvaluator", "ranks"]


class ClassificationEvaluator(DatasetEvaluator):
    """Accuracy and cross entropy over all images of all processes.

    Returns ``{"classification": {"top1": percent, "top5": percent, "nll": nats}}``: images whose class is the most
    probable one, is among the five most probable ones (only with more than five classes), and the mean cross entropy.
    An image with a logit that is not finite counts as wrong (and makes ``nll`` NaN). An image that comes twice counts
    once, as it came last; an image that never comes does not count.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._seen: dict[Any, tuple[int, float]] = {}
        self._classes = 0

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Take one batch.

        Args:
            inputs: dicts with ``label`` and ``image_id``.
            outputs: dicts with ``logits``, (K,), in the same order.
        """
        logits = torch.stack([output["logits"].float() for output in outputs]).cpu()
        labels = torch.tensor([int(sample["label"]) for sample in inputs])
        costs = F.cross_entropy(logits, labels, reduction="none")
        self._classes = logits.shape[1]
        for sample, rank, cost in zip(inputs, ranks(logits, labels).tolist(), costs.tolist(), strict=True):
            self._seen[sample["image_id"]] = (rank, cost)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather all processes' images; return the results on the main process, {} on the others and without any."""
        gathered = comm.gather((self._seen, self._classes), dst=0)
        if not comm.is_main_process():
            return {}
        seen = list({k: v for part, _ in gathered for k, v in part.items()}.values())
        if not seen:
            return {}
        rank, cost = torch.tensor(seen, dtype=torch.float64).unbind(1)
        found = {"top1": _percent(rank < 1)}
        if max(classes for _, classes in gathered) > 5:
            found["top5"] = _percent(rank < 5)
        return OrderedDict(classification={**found, "nll": float(cost.mean())})


def ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes come before each image's own: 0 if it is the most probable one.

    Of equal logits the one with the lower number comes first. With a logit that is not finite the rank is K.

    Args:
        logits: (B, K).
        labels: int64 (B,).
    """
    own = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1])[None] < labels[:, None]
    before = (logits > own) | ((logits == own) & lower)
    return before.sum(1).where(logits.isfinite().all(1), logits.shape[1])


def _percent(right: Tensor) -> float:
    return 100 * float(right.double().mean())
