"""The second stage of a Faster R-CNN as a graph: maps and boxes to class probabilities and better boxes."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from torch import Tensor, nn

from ..check import DoesNotFit
from .boxes import areas, decode

__all__ = ["Pooler", "Regions"]

_ELSE = "export to pth, safetensors or backbone"


class Pooler(nn.Module):
    """detectron2's ``ROIPooler``: each box is pooled from the map of its size.

    Args:
        pooler: detectron2's.

    Raises:
        DoesNotFit: it does not align (RoIPool) or has rotated boxes.
    """

    def __init__(self, pooler: Any) -> None:
        super().__init__()
        self.levels = nn.ModuleList(pooler.level_poolers)
        if not all(isinstance(level, ROIAlign) for level in self.levels):
            raise DoesNotFit(
                f"MODEL.ROI_BOX_HEAD.POOLER_TYPE of {type(self.levels[0]).__name__}: graphs are made with ROIAlign and "
                f"ROIAlignV2 only; {_ELSE}"
            )
        self.lowest, self.highest = int(pooler.min_level), int(pooler.max_level)
        self.size, self.level = float(pooler.canonical_box_size), float(pooler.canonical_level)

    def forward(self, maps: list[Tensor], boxes: Tensor) -> Tensor:
        """Pool (1, C, h, w) maps at boxes (N, 4) to (N, C, s, s)."""
        rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), boxes], dim=1)
        if len(self.levels) == 1:
            return self.levels[0](maps[0], rois)
        sides = torch.sqrt(areas(boxes))
        level = torch.floor(self.level + torch.log2(sides / self.size + 1e-8))
        level = level.clamp(self.lowest, self.highest)
        at = [torch.nonzero(level == self.lowest + i)[:, 0] for i in range(len(self.levels))]
        pooled = [pool(m, rois[i]) for pool, m, i in zip(self.levels, maps, at, strict=True)]
        # back to the boxes' order: which of two equal scores is suppressed depends on it
        taken = torch.cat(at)
        places = torch.zeros_like(level, dtype=torch.int64)
        places = places.scatter(0, taken, torch.arange(taken.shape[0], device=taken.device))
        return torch.cat(pooled)[places]


class Regions(nn.Module):
    """The box branch of detectron2's ``StandardROIHeads`` (FPN) or ``Res5ROIHeads`` (C4), before suppression.

    Args:
        heads: detectron2's; its layers are shared, not copied.

    Raises:
        DoesNotFit: other heads (cascades, rotated boxes), or heads with masks or keypoints.
    """

    def __init__(self, heads: Any) -> None:
        super().__init__()
        predictor = getattr(heads, "box_predictor", None)
        if not isinstance(heads, (StandardROIHeads, Res5ROIHeads)) or not isinstance(
            predictor, FastRCNNOutputLayers
        ):
            raise DoesNotFit(
                f"{type(heads).__name__} have no graph: it is made of StandardROIHeads and Res5ROIHeads with one box "
                f"predictor (no cascade); {_ELSE}"
            )
        more = [name for name in ("mask", "keypoint") if getattr(heads, f"{name}_on", False)]
        if more:
            raise DoesNotFit(
                f"the student finds {' and '.join(more)}s too, and a graph gives boxes only: set "
                f"{', '.join(f'MODEL.{name.upper()}_ON False' for name in more)}, or {_ELSE}"
            )
        c4 = isinstance(heads, Res5ROIHeads)
        self.in_features = list(heads.in_features if c4 else heads.box_in_features)
        self.pooler = Pooler(heads.pooler if c4 else heads.box_pooler)
        self.head = heads.res5 if c4 else heads.box_head
        self.average, self.predictor = c4, predictor
        self.sigmoid = bool(getattr(predictor, "use_sigmoid_ce", False))
        transform = predictor.box2box_transform
        self.weights, self.scale_clamp = tuple(transform.weights), transform.scale_clamp

    def forward(self, maps: dict[str, Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities (N, classes) and boxes (N, classes, 4), not clipped; for N = 0 too."""
        # one box more, taken away below: layers need not know how to handle none
        one = boxes.new_tensor([[0.0, 0.0, 1.0, 1.0]])
        boxes = torch.cat([boxes, one])
        pooled = self.head(self.pooler([maps[name] for name in self.in_features], boxes))
        logits, deltas = self.predictor(pooled.mean(dim=(2, 3)) if self.average else pooled)
        scores = logits.float().sigmoid() if self.sigmoid else logits.float().softmax(dim=1)
        found = decode(deltas, boxes, self.weights, self.scale_clamp)
        finite = torch.isfinite(scores).all(dim=1) & torch.isfinite(found).flatten(1).all(dim=1)
        scores = torch.where(finite[:, None], scores, scores.new_full((), -1.0))
        scores = scores[:-1, :-1]
        return scores, found[:-1].expand(-1, scores.shape[1], -1)
