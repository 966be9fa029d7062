"""The region proposal network of a Faster R-CNN as a graph: maps of the backbone to boxes, for one image."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.proposal_generator import RPN
from torch import Tensor, nn

from ..check import DoesNotFit
from .boxes import anchors, clip, decode, first, nonempty, suppress

__all__ = ["Proposals", "cell_anchors"]


def cell_anchors(generator: Any) -> list[Tensor]:
    """Return a detectron2 anchor generator's anchors around (0, 0), (A, 4) for each map.

    Raises:
        DoesNotFit: it is not the default one (rotated boxes).
    """
    if type(generator) is not DefaultAnchorGenerator:
        raise DoesNotFit(
            f"{type(generator).__name__}: graphs are made with MODEL.ANCHOR_GENERATOR.NAME 'DefaultAnchorGenerator' "
            "only; export to pth, safetensors or backbone"
        )
    return [cells.detach().clone() for _, cells in generator.cell_anchors.named_buffers()]


class Proposals(nn.Module):
    """What detectron2's ``RPN`` does in a test: the best of each map, clipped, suppressed, the best of all.

    Args:
        rpn: detectron2's; its head is shared, not copied.

    Raises:
        DoesNotFit: another proposal generator, or rotated boxes.
    """

    def __init__(self, rpn: nn.Module) -> None:
        super().__init__()
        if not isinstance(rpn, RPN):
            raise DoesNotFit(
                f"the proposal generator {type(rpn).__name__} has no graph: it is made of detectron2's RPN; "
                "export to pth, safetensors or backbone"
            )
        self.in_features = list(rpn.in_features)
        self.head = rpn.rpn_head
        self.strides, self.offset = list(rpn.anchor_generator.strides), float(rpn.anchor_generator.offset)
        for level, cells in enumerate(cell_anchors(rpn.anchor_generator)):
            self.register_buffer(f"cells{level}", cells)
        self.weights, self.scale_clamp = (
            tuple(rpn.box2box_transform.weights),
            rpn.box2box_transform.scale_clamp,
        )
        self.pre, self.post = int(rpn.pre_nms_topk[False]), int(rpn.post_nms_topk[False])
        self.threshold, self.side = float(rpn.nms_thresh), float(rpn.min_box_size)

    def forward(self, maps: dict[str, Tensor], height: Tensor, width: Tensor) -> Tensor:
        """Return the boxes (N, 4), best first; N may be 0."""
        features = [maps[name] for name in self.in_features]
        levels = list(zip(features, *self.head(features), strict=True))
        boxes, scores = zip(
            *(self._level(i, x, y, z, height, width) for i, (x, y, z) in enumerate(levels)), strict=True
        )
        best = torch.sort(torch.cat(scores), descending=True)[1]
        return torch.cat(boxes)[first(best, self.post)]

    def _level(
        self, level: int, feature: Tensor, logits: Tensor, deltas: Tensor, height: Tensor, width: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The boxes and logits of one map that stay."""
        h, w = feature.shape[2], feature.shape[3]
        flat = logits[0].permute(1, 2, 0).reshape(-1)
        moves = deltas[0].reshape(-1, 4, h, w).permute(2, 3, 0, 1).reshape(-1, 4)
        laid = anchors(getattr(self, f"cells{level}"), h, w, self.strides[level], self.offset)
        order = first(torch.sort(flat, descending=True)[1], self.pre)
        best = flat[order]
        found = decode(moves[order], laid[order], self.weights, self.scale_clamp)[:, 0]
        finite = torch.isfinite(found).all(dim=1) & torch.isfinite(best)
        found = clip(found, height, width)
        good = finite & nonempty(found, self.side)
        found, best = found[good], best[good]
        kept = suppress(found, best, self.threshold)
        return found[kept], best[kept]
