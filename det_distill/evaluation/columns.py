"""Detections and ground truth as columns of numbers, one row per box."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import BoxMode


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a dataset.

    N objects on `images` images.

    Attributes:
        image: (N,) int64, the image's position in the dataset.
        category: (N,) int64, the contiguous class id.
        box: (N, 4) float64, x0, y0, x1, y1 in pixels, continuous: the area is (x1 - x0) * (y1 - y0).
        area: (N,) float64, square pixels: as annotated, else that of the box.
        crowd: (N,) bool, COCO's iscrowd.
        difficult: (N,) bool, VOC's flag.
        sizes: (images, 2) int64, width and height.
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    sizes: np.ndarray

    @classmethod
    def from_dicts(cls, dicts: Sequence[Mapping[str, Any]]) -> "GroundTruth":
        """The columns of detectron2's standard dataset dicts; absent flags are False.

        Args:
            dicts: image i is the i-th dict.
        """
        counts = [len(record.get("annotations", ())) for record in dicts]
        objects = [entry for record in dicts for entry in record.get("annotations", ())]
        box = np.array([_corners(entry) for entry in objects], dtype=np.float64).reshape(-1, 4)
        inside = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        stated = [entry.get("area") for entry in objects]
        areas = [value if area is None else area for area, value in zip(stated, inside, strict=True)]
        sizes = [(record["width"], record["height"]) for record in dicts]
        return cls(
            image=np.repeat(np.arange(len(dicts)), counts),
            category=np.array([entry["category_id"] for entry in objects], dtype=np.int64),
            box=box,
            area=np.array(areas, dtype=np.float64),
            crowd=np.array([entry.get("iscrowd", 0) for entry in objects], dtype=bool),
            difficult=np.array([entry.get("difficult", 0) for entry in objects], dtype=bool),
            sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        )


def _corners(entry: Mapping[str, Any]) -> list[float]:
    return BoxMode.convert(list(entry["bbox"]), entry["bbox_mode"], BoxMode.XYXY_ABS)


@dataclass(frozen=True)
class Detections:
    """What a detector found, N boxes.

    Attributes:
        image: (N,) int64, the image's position in the dataset.
        category: (N,) int64, the contiguous class id.
        box: (N, 4) float64, x0, y0, x1, y1 in pixels, continuous.
        score: (N,) float64, higher is surer.
    """

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.score)
