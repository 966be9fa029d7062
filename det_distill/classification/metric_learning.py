"""A classifier that is trained for its embedding: images of one identity close together, others apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ..losses.arithmetic import directions
from .metric_losses import LargeMarginSoftmax, Loss, anneal, triplet_loss, verification_loss
from .model import ImageClassifier

__all__ = ["MetricLearner", "add_metric_learning_config"]


def add_metric_learning_config(cfg: CfgNode) -> None:
    """Add the keys of `MetricLearner`, with their defaults, in place; the classifier's own are needed, too."""
    node = cfg.MODEL.METRIC_LEARNING = CfgNode()
    # weight of the plain cross entropy, loss_cls; 0: off, as for every other loss
    node.SOFTMAX_WEIGHT = 0.0
    # large-margin softmax, and the share of the plain logit: max(ANNEALING_FLOOR, ANNEALING * ANNEALING_DECAY^step);
    # ANNEALING 0: none from the start
    node.LARGE_MARGIN_WEIGHT = 1.0
    node.LARGE_MARGIN = 3
    node.ANNEALING = 1000.0
    node.ANNEALING_DECAY = 0.99999
    node.ANNEALING_FLOOR = 5.0
    # pairs of one identity, which are pulled together
    node.VERIFICATION_WEIGHT = 0.5
    # anchor, one of its identity and one of another
    node.TRIPLET_WEIGHT = 0.05
    node.TRIPLET_MARGIN = 1.8
    # of pairs and triplets: squared distances, of embeddings divided by their length, after a dropout of this rate
    node.SQUARED_DISTANCE = True
    node.NORMALIZE = True
    node.DROPOUT = 0.5


@META_ARCH_REGISTRY.register()
class MetricLearner(ImageClassifier):
    """`ImageClassifier` with the losses of metric learning, each with a weight; 0 leaves it out.

        loss_cls             cross entropy of the classifier's logits, smoothed as an `ImageClassifier`'s
        loss_large_margin    `LargeMarginSoftmax` with the classifier's weight, on the embedding as it is
        loss_verification    `verification_loss`: pairs of one identity only
        loss_triplet         `triplet_loss`: all triplets of the batch

    The latter two see dropout(f / ||f||_2) of the embedding f, one dropout for both. An identity is a ``label``, and
    batches need several images of each: ``DATALOADER.SAMPLER_TRAIN: "IdentitySampler"``. Without a pair, or a triplet,
    the loss is 0. Arithmetic is in float32. Addresses, batches and outputs in eval mode (``embedding``, not normalised,
    and ``logits``) are those of `ImageClassifier`. Parameters that no loss trains, such as a classifier's without the
    first two losses, get a zero gradient, because distributed training accepts no unused ones.

    Source: TuSimple/DarkRank (5e6a74f), ``reid.py`` and ``PYOP/lmnn.py``, whose settings are the defaults. There,
    for each anchor a of the paired half of a batch, with p its pair and n every other sample of the batch,

        0.5 ||a - p||^2 + 0.1 mean_n max(0, 0.5 ||a - p||^2 - 0.5 ||a - n||^2 + 0.9)

    summed over the anchors and divided by the batch. In terms of squared distances without the 0.5 that is a triplet
    margin of 1.8 and the weights 0.5 and 0.05 times the part of the batch that has pairs: the defaults where every
    image has one pair, 0.25 and 0.025 where half of them have. It differs where the unpaired half holds an identity
    twice, or one of the paired half: the authors take them for negatives, here they are pairs. The large-margin
    softmax, with its annealing, has no weight there, that is 1. The paper's weights could not be confirmed.

    Args:
        softmax_weight: of ``loss_cls``.
        large_margin_weight: of ``loss_large_margin``.
        large_margin: 1, 2, 3, ...
        annealing: start, decay and floor of `anneal`, at the trainer's iteration; outside of a trainer, the number of
            training forwards.
        verification_weight: of ``loss_verification``.
        triplet_weight: of ``loss_triplet``.
        triplet_margin: of the distances, squared or not.
        squared_distance: of pairs and triplets.
        normalize: divide embeddings by their length before the dropout.
        dropout: rate, before pairs and triplets.
        classifier: arguments of `ImageClassifier`.

    Raises:
        ValueError: no loss has a weight, or a number out of its range.
        ImportError: a loss needs ``pytorch-metric-learning``, which is not installed.
    """

    @configurable
    def __init__(
        self,
        *,
        softmax_weight: float = 0.0,
        large_margin_weight: float = 1.0,
        large_margin: int = 3,
        annealing: tuple[float, float, float] = (1000.0, 0.99999, 5.0),
        verification_weight: float = 0.5,
        triplet_weight: float = 0.05,
        triplet_margin: float = 1.8,
        squared_distance: bool = True,
        normalize: bool = True,
        dropout: float = 0.5,
        **classifier: Any,
    ) -> None:
        super().__init__(**classifier)
        self.weights = {
            "loss_cls": softmax_weight,
            "loss_large_margin": large_margin_weight,
            "loss_verification": verification_weight,
            "loss_triplet": triplet_weight,
        }
        _check(self.weights, annealing, dropout, triplet_margin)
        self.annealing, self.normalize, self.dropout = annealing, normalize, dropout
        self._forwards = 0
        self._comparisons: dict[str, Loss] = {}  # no submodules: they have neither parameters nor addresses
        if large_margin_weight:
            width = self.classifier.in_features
            self._large_margin = LargeMarginSoftmax(self.num_classes, width, large_margin)
        if verification_weight:
            self._comparisons["loss_verification"] = verification_loss(squared=squared_distance)
        if triplet_weight:
            self._comparisons["loss_triplet"] = triplet_loss(triplet_margin, squared=squared_distance)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments that ``MODEL.METRIC_LEARNING`` and those of `ImageClassifier` describe."""
        node = cfg.MODEL.METRIC_LEARNING
        return {
            **super().from_config(cfg),
            "softmax_weight": node.SOFTMAX_WEIGHT,
            "large_margin_weight": node.LARGE_MARGIN_WEIGHT,
            "large_margin": node.LARGE_MARGIN,
            "annealing": (node.ANNEALING, node.ANNEALING_DECAY, node.ANNEALING_FLOOR),
            "verification_weight": node.VERIFICATION_WEIGHT,
            "triplet_weight": node.TRIPLET_WEIGHT,
            "triplet_margin": node.TRIPLET_MARGIN,
            "squared_distance": node.SQUARED_DISTANCE,
            "normalize": node.NORMALIZE,
            "dropout": node.DROPOUT,
        }

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> Any:
        """Return the losses in training, logits and embedding of each image in eval mode; see the class."""
        if not self.training:
            return super().forward(batch)
        maps = self.backbone(self.normalized_images(batch))
        embedding = self.embedding(self.pool(maps[self.feature]))
        logits = self.classifier(embedding)  # always, for whoever taps it
        with torch.autocast(self.device.type, enabled=False):
            losses = self._losses(embedding.float(), logits.float(), self._labels(batch))
        unused = logits.flatten()[:0].sum()  # 0: in distributed training every parameter has a gradient
        return {name: self.weights[name] * value + unused for name, value in losses.items()}

    def _losses(self, embedding: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        if self.weights["loss_cls"]:
            losses["loss_cls"] = self._cross_entropy(logits, labels)
        if self.weights["loss_large_margin"]:
            weight, share = self.classifier.weight.float(), anneal(self._iteration(), *self.annealing)
            losses["loss_large_margin"] = self._large_margin(embedding, labels, weight, share)
        if self._comparisons:
            embedding = F.dropout(directions(embedding) if self.normalize else embedding, self.dropout)
        for name, loss in self._comparisons.items():
            losses[name] = loss(embedding, labels)
        self._forwards += 1
        return losses

    def _iteration(self) -> int:
        try:
            return int(get_event_storage().iter)
        except AssertionError:  # no trainer
            return self._forwards


def _check(
    weights: Mapping[str, float], annealing: tuple[float, float, float], dropout: float, margin: float
) -> None:
    if min(weights.values()) < 0 or not any(weights.values()):
        raise ValueError(
            f"the weights of MODEL.METRIC_LEARNING are {dict(weights)}: none below 0, and one above"
        )
    if not 0 <= dropout < 1 or margin < 0:
        raise ValueError(
            f"MODEL.METRIC_LEARNING: DROPOUT {dropout} must be at least 0 and below 1, and TRIPLET_MARGIN {margin} "
            "at least 0"
        )
    start, decay, floor = annealing
    if start < 0 or floor < 0 or not 0 < decay <= 1:
        raise ValueError(
            f"MODEL.METRIC_LEARNING: ANNEALING {start} and ANNEALING_FLOOR {floor} must be at least 0, "
            f"ANNEALING_DECAY {decay} above 0 and at most 1"
        )
