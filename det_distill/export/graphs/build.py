"""A trained student as a module of tensors only: one image in, the deployed outputs out."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.meta_arch import GeneralizedRCNN, RetinaNet
from torch import Tensor, nn

from ...classification import ImageClassifier
from ..check import DoesNotFit
from .classifier import Classifier
from .rcnn import FasterRCNN
from .retinanet import DenseDetector

__all__ = ["Graph", "graph_of", "ready"]


@dataclass(frozen=True)
class Graph:
    """A module, and what an exporter has to know of it.

    Attributes:
        module: in eval mode, maps (C, H, W) float32 pixels, 0 to 255, to a tensor or a tuple.
        outputs: names of what it returns, in order.
        channels: C.
        side: H = W of the only images that the network takes; 0: any size.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    channels: int
    side: int = 0


class _Subsample(nn.Module):
    """``max_pool2d(x, 1, 2)``, which is every second cell, without asking whether their number is odd."""

    def __init__(self, top: LastLevelMaxPool) -> None:
        super().__init__()
        self.num_levels, self.in_feature = top.num_levels, top.in_feature

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return (N, C, h, w) with half the cells a side, rounded up, in a list."""
        return [x[:, :, ::2, ::2]]


def ready(model: nn.Module) -> nn.Module:
    """Return a copy of a detectron2 model in which exporters find nothing they trip over."""
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, LastLevelMaxPool):
                setattr(module, name, _Subsample(child))
    return model


def graph_of(model: nn.Module, score_threshold: float | None = None) -> Graph:
    """Return the graph of a student; the student is not changed.

    Args:
        model: a ``GeneralizedRCNN`` (Faster R-CNN with FPN or C4), ``RetinaNet`` or `ImageClassifier`.
        score_threshold: a detector's detections have more; None: its own.

    Raises:
        DoesNotFit: another model, or one with parts that have no graph.
    """
    square = getattr(getattr(model, "backbone", None), "padding_constraints", {}).get("square_size", 0)
    if square:
        raise DoesNotFit(
            f"the backbone wants every image padded to {square} x {square} pixels, and a graph pads to a multiple of "
            "its size_divisibility only; export to pth, safetensors or backbone"
        )
    copied: Any = ready(model)
    channels, detector = len(copied.pixel_mean), ("boxes", "scores", "classes")
    if type(copied) is ImageClassifier:  # not a metric learner, whose answer is no logit
        side = int(getattr(copied.backbone, "image_size", 0) or 0)
        return Graph(Classifier(copied).eval(), ("logits",), channels, side)
    if type(copied) is GeneralizedRCNN:
        return Graph(FasterRCNN(copied, score_threshold).eval(), detector, channels)
    if type(copied) is RetinaNet:
        return Graph(DenseDetector(copied, score_threshold).eval(), detector, channels)
    raise DoesNotFit(
        f"{type(model).__name__} has no graph: it is made of GeneralizedRCNN (Faster R-CNN), RetinaNet and "
        "ImageClassifier; export to pth, safetensors or backbone"
    )
