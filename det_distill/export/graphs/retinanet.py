"""RetinaNet as a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .boxes import anchors, clip, decode, first, length, nonempty, per_class_nms
from .pixels import Pixels
from .proposals import cell_anchors

__all__ = ["DenseDetector"]


class DenseDetector(nn.Module):
    """What detectron2's ``RetinaNet`` gives for one image in a test, as tensors.

    Args:
        model: detectron2's; its layers are shared, not copied.
        score_threshold: detections have more; None: the model's own.

    Raises:
        DoesNotFit: its anchors are not the default ones.
    """

    def __init__(self, model: Any, score_threshold: float | None = None) -> None:
        super().__init__()
        generator = model.anchor_generator
        for level, cells in enumerate(cell_anchors(generator)):
            self.register_buffer(f"cells{level}", cells)
        self.strides, self.offset = list(generator.strides), float(generator.offset)
        self.pixels = Pixels(model.pixel_mean, model.pixel_std, int(model.backbone.size_divisibility))
        self.backbone, self.head = model.backbone, model.head
        self.in_features, self.classes = list(model.head_in_features), int(model.num_classes)
        self.weights = tuple(model.box2box_transform.weights)
        self.scale_clamp = model.box2box_transform.scale_clamp
        own = model.test_score_thresh
        self.score_threshold = float(own if score_threshold is None else score_threshold)
        self.candidates, self.nms_threshold = int(model.test_topk_candidates), float(model.test_nms_thresh)
        self.most = int(model.max_detections_per_image)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (C, H, W) to boxes (N, 4), scores (N,), classes (N,) int64, best first."""
        height, width = length(image[0, :, 0]), length(image[0, 0])
        maps = self.backbone(self.pixels(image))
        features = [maps[name] for name in self.in_features]
        logits, deltas = self.head(features)
        levels = enumerate(zip(features, logits, deltas, strict=True))
        boxes, scores, kinds = (
            torch.cat(part) for part in zip(*(self._level(i, *x) for i, x in levels), strict=True)
        )
        kept = per_class_nms(boxes, scores, kinds, self.nms_threshold)
        kept = first(kept, self.most)
        clipped = clip(boxes[kept], height, width)
        good = nonempty(clipped)
        return clipped[good], scores[kept][good], kinds[kept][good]

    def _level(
        self, level: int, feature: Tensor, logits: Tensor, deltas: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes of the best candidates of one map."""
        h, w = feature.shape[2], feature.shape[3]
        flat = (
            logits[0].reshape(-1, self.classes, h, w).permute(2, 3, 0, 1).reshape(-1, self.classes).sigmoid()
        )
        moves = deltas[0].reshape(-1, 4, h, w).permute(2, 3, 0, 1).reshape(-1, 4)
        laid = anchors(getattr(self, f"cells{level}"), h, w, self.strides[level], self.offset)
        row, kind = torch.nonzero(flat > self.score_threshold).unbind(dim=1)
        order = first(torch.sort(flat[row, kind], descending=True)[1], self.candidates)
        row, kind = row[order], kind[order]
        return decode(moves[row], laid[row], self.weights, self.scale_clamp)[:, 0], flat[row, kind], kind
