"""Compare two sets of detections of one image, which need not be in one order nor of one size.

Two right programs for one network differ in the last bits. Most of it moves scores and corners by as little. But some
of a detector's steps are decisions: which score passes the threshold, which of two scores is larger (so which box
suppresses the other, and which is among the best k). Where the numbers behind a decision are equal but for those last
bits, a detection can be in one set and not in the other, and neither is wrong. `difference` therefore forgives a
detection that has no partner only where it can be shown that it is such a case:

* its score is within the tolerance of the threshold, or
* as many detections as are returned at most are there, and its score is within the tolerance of the lowest, or
* it overlaps a detection of its class in the other set by more than 0.9: a near copy of equal score took its place.

Any other makes the difference infinite. Order does not count: every detection takes the nearest one of its class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["difference", "disagreement"]

Found = Mapping[str, Tensor]

_NEAR_COPY = 0.9


def difference(expected: Found, found: Found, tolerance: float, threshold: float, most: int = -1) -> float:
    """Return the largest difference of two sets of detections, or of two logits; infinite where they do not match.

    Scores count as they are (0 to 1), corners as a part of the box's larger side, or of 1 pixel if that is more.

    Args:
        expected, found: ``boxes`` (N, 4), ``scores`` (N,), ``classes`` (N,); or ``logits``, whose difference is
            a part of the largest logit, or of 1 if that is more.
        tolerance: what the result will be held against.
        threshold: the score that detections have at least.
        most: detections that are returned at most; negative: all.
    """
    if "logits" in expected:
        a, b = expected["logits"].double(), found["logits"].double()
        if a.shape != b.shape:
            return math.inf
        return float((a - b).abs().max() / max(1.0, float(a.abs().max())))
    distances = _distances(expected, found)
    pairs, alone = _pairs(distances, tolerance)
    worst = max((float(distances[i, j]) for i, j in pairs), default=0.0)
    sides = (expected, found), (found, expected)
    for (own, other), unmatched in zip(sides, alone, strict=True):
        full = most > 0 and len(own["scores"]) == most
        least = float(own["scores"].min()) if full else -math.inf
        for i in unmatched:
            score = float(own["scores"][i])
            marginal = score - threshold <= tolerance or score - least <= tolerance
            if not marginal and not _has_near_copy(own, i, other):
                return math.inf
    return worst


def disagreement(expected: Found, found: Found) -> float:
    """Return how much two networks of unequal precision contradict each other, 0 to 1.

    Of detectors: the scores of all detections in one set that have no partner in the other (same class, overlap of 0.5
    or more), as a part of all scores; 0 if there are none at all. Of classifiers: half the sum of the differences of
    their probabilities.
    """
    if "logits" in expected:
        a, b = expected["logits"].double().softmax(0), found["logits"].double().softmax(0)
        return float((a - b).abs().sum() / 2)
    overlap = box_iou(expected["boxes"], found["boxes"])
    overlap[expected["classes"][:, None] != found["classes"][None]] = 0
    _, alone = _pairs(1 - overlap, 0.5)
    lost = sum(float(side["scores"][i].sum()) for side, i in zip((expected, found), alone, strict=True))
    total = float(expected["scores"].sum() + found["scores"].sum())
    return lost / total if total else 0.0


def _distances(expected: Found, found: Found) -> Tensor:
    """(N, M); infinite between classes."""
    boxes, others = expected["boxes"].double(), found["boxes"].double()
    side = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1).clamp(min=1)
    corners = (boxes[:, None] - others[None]).abs().amax(dim=2) / side[:, None]
    scores = (expected["scores"].double()[:, None] - found["scores"].double()[None]).abs()
    distances = torch.maximum(corners, scores)
    distances[expected["classes"][:, None] != found["classes"][None]] = math.inf
    return distances


def _pairs(distances: Tensor, farthest: float) -> tuple[list[tuple[int, int]], tuple[list[int], list[int]]]:
    """The nearest ones first, each in one pair at most; and who is left on either side."""
    rows, columns = torch.nonzero(distances <= farthest).unbind(dim=1)
    nearest = torch.sort(distances[rows, columns], stable=True)[1]
    left, right = set(range(distances.shape[0])), set(range(distances.shape[1]))
    pairs = []
    for i, j in zip(rows[nearest].tolist(), columns[nearest].tolist(), strict=True):
        if i in left and j in right:
            pairs.append((i, j))
            left.remove(i)
            right.remove(j)
    return pairs, (sorted(left), sorted(right))


def _has_near_copy(own: Found, index: int, other: Found) -> bool:
    same = other["classes"] == own["classes"][index]
    overlaps = box_iou(own["boxes"][index : index + 1].float(), other["boxes"][same].float())
    return bool((overlaps > _NEAR_COPY).any())
