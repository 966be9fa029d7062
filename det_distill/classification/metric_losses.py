"""The losses of metric learning, on embeddings and identities, from ``pytorch-metric-learning``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["LargeMarginSoftmax", "Loss", "anneal", "triplet_loss", "verification_loss"]

Loss = Callable[[Tensor, Tensor], Tensor]


def _library() -> Any:
    try:
        import pytorch_metric_learning.distances as distances
        import pytorch_metric_learning.losses as losses
        import pytorch_metric_learning.reducers as reducers
    except ImportError as error:
        raise ImportError(
            "metric learning needs the package pytorch-metric-learning: pip install 'det_distill[metric]'. A model "
            "that only embeds does without it: set LARGE_MARGIN_WEIGHT, VERIFICATION_WEIGHT and TRIPLET_WEIGHT of "
            "MODEL.METRIC_LEARNING to 0"
        ) from error
    return losses, distances, reducers


def verification_loss(*, squared: bool = True) -> Loss:
    """Return the mean over all ordered pairs of equal identity of the distance ||a - p||_2, squared if so asked.

    A function of embeddings (B, D), taken as they are, and identities (B,); 0 without a pair. It only pulls: it is the
    library's ``ContrastiveLoss`` without its negative part.

    Raises:
        ImportError: the library is not installed.
    """
    losses, distances, reducers = _library()
    distance = distances.LpDistance(normalize_embeddings=False, power=2 if squared else 1)
    # relu(0 - distance) is zero for each pair of unequal identities.
    return losses.ContrastiveLoss(
        pos_margin=0, neg_margin=0, distance=distance, reducer=reducers.MeanReducer()
    )


def triplet_loss(margin: float, *, squared: bool = True) -> Loss:
    """Return the mean over all triplets of max(0, d(a, p) - d(a, n) + margin), d as in `verification_loss`.

    A function of embeddings (B, D), taken as they are, and identities (B,). p has the identity of a, n has another;
    triplets that keep the margin count as zeros; 0 without a triplet.

    Raises:
        ImportError: the library is not installed.
    """
    losses, distances, reducers = _library()
    distance = distances.LpDistance(normalize_embeddings=False, power=2 if squared else 1)
    return losses.TripletMarginLoss(margin, distance=distance, reducer=reducers.MeanReducer())


def anneal(step: int, start: float, decay: float, floor: float) -> float:
    """Return the share lambda of the plain logit at a step: max(floor, start * decay^step); 0 if `start` is 0."""
    return max(floor, start * decay**step) if start else 0.0


class LargeMarginSoftmax:
    """Cross entropy whose own logit asks for an angle `margin` times as small; Liu, Wen, Yu, Yang, ICML 2016.

        logit_k   = ||w_k|| ||x|| cos(theta_k)                                         for all but the own class y
        logit_y   = ||w_y|| ||x|| (lambda cos(theta_y) + psi(theta_y)) / (1 + lambda)
        psi(t)    = (-1)^j cos(margin t) - 2 j     for t in [j pi / margin, (j + 1) pi / margin]

    The mean over the batch. lambda = 0 is the plain form, a large one plain softmax. The library's
    ``LargeMarginSoftmaxLoss``, which has neither lambda nor a weight from outside: here w_k are the rows of a linear
    layer's weight, so that the layer is a classifier as ever. Its bias takes no part. Embeddings are not normalised.

    Args:
        classes: number of classes K.
        width: of the embedding, D.
        margin: 1 (plain softmax), 2, 3, ...

    Raises:
        ValueError: a margin that is no positive whole number.
        ImportError: the library is not installed.
    """

    def __init__(self, classes: int, width: int, margin: int = 3) -> None:
        if margin < 1 or int(margin) != margin:
            raise ValueError(f"the margin of large-margin softmax is 1, 2, 3, ..., not {margin}")
        losses, _, reducers = _library()

        class Annealed(losses.LargeMarginSoftmaxLoss):  # type: ignore[misc, name-defined]
            share = 0.0

            def modify_cosine_of_target_classes(self, cosine: Tensor) -> Tensor:
                return (self.share * cosine + super().modify_cosine_of_target_classes(cosine)) / (
                    1 + self.share
                )

        self._loss: nn.Module = Annealed(classes, width, margin=margin, reducer=reducers.MeanReducer())

    def __call__(self, embedding: Tensor, labels: Tensor, weight: Tensor, share: float = 0.0) -> Tensor:
        """Return the loss of embeddings (B, D) of classes (B,) under weights (K, D), with lambda = `share`."""
        self._loss.share = share  # type: ignore[assignment]
        loss: Tensor = functional_call(self._loss, {"W": weight.T}, (embedding, labels))
        return loss if torch.is_tensor(loss) else embedding.sum() * 0
