"""Faster R-CNN as a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .boxes import clip, first, length, nonempty, per_class_nms
from .pixels import Pixels
from .proposals import Proposals
from .regions import Regions

__all__ = ["FasterRCNN"]


class FasterRCNN(nn.Module):
    """What detectron2's ``GeneralizedRCNN`` gives for one image in a test, as tensors.

    Args:
        model: detectron2's; its layers are shared, not copied.
        score_threshold: detections have more; None: the model's own.

    Raises:
        DoesNotFit: parts that have no graph.
    """

    def __init__(self, model: Any, score_threshold: float | None = None) -> None:
        super().__init__()
        heads = model.roi_heads
        self.proposals, self.regions = Proposals(model.proposal_generator), Regions(heads)
        self.pixels = Pixels(model.pixel_mean, model.pixel_std, int(model.backbone.size_divisibility))
        self.backbone = model.backbone
        own = heads.box_predictor.test_score_thresh
        self.score_threshold = float(own if score_threshold is None else score_threshold)
        self.nms_threshold = float(heads.box_predictor.test_nms_thresh)
        self.most = int(heads.box_predictor.test_topk_per_image)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (C, H, W) to boxes (N, 4), scores (N,), classes (N,) int64, best first."""
        height, width = length(image[0, :, 0]), length(image[0, 0])
        maps = self.backbone(self.pixels(image))
        scores, boxes = self.regions(maps, self.proposals(maps, height, width))
        boxes = clip(boxes, height, width)
        row, kind = torch.nonzero(scores > self.score_threshold).unbind(dim=1)
        boxes, scores = boxes[row, kind], scores[row, kind]
        kept = per_class_nms(boxes, scores, kind, self.nms_threshold)
        kept = kept if self.most < 0 else first(kept, self.most)
        kept = kept[nonempty(boxes[kept])]
        return boxes[kept], scores[kept], kind[kept]
