"""An image classifier as a graph."""

from __future__ import annotations

from torch import Tensor, nn

from ...classification import ImageClassifier
from .pixels import Pixels

__all__ = ["Classifier"]


class Classifier(nn.Module):
    """What `ImageClassifier` gives for one image in a test: the logits.

    Args:
        model: its layers are shared, not copied.
    """

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        # never padded: zeros would enter the average
        self.pixels = Pixels(model.pixel_mean, model.pixel_std, divisor=0)
        self.backbone, self.feature = model.backbone, model.feature
        self.pool, self.embedding, self.classifier = model.pool, model.embedding, model.classifier

    def forward(self, image: Tensor) -> Tensor:
        """Map (C, H, W) to logits (K,)."""
        maps = self.backbone(self.pixels(image))
        logits: Tensor = self.classifier(self.embedding(self.pool(maps[self.feature])))[0]
        return logits
