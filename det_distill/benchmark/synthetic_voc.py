"""A synthetic set in PASCAL VOC layout, and detections on it like a trained detector's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from numpy.typing import NDArray
from PIL import Image

__all__ = ["SPLIT", "Found", "SyntheticVoc"]

SPLIT = "test"
Found = tuple[str, Instances]
"""An image's id and what was found on it."""

_WIDTH, _HEIGHT = 500, 375
_OBJECTS, _BACKGROUND = 2.0, 10.0


@dataclass(frozen=True)
class SyntheticVoc:
    """Three objects an image as in VOC 2007's test set, a fifth of them difficult; some 15 detections.

    Of ten objects nine are found, near their place, some twice and some as another class; most detections of low
    score lie anywhere.  Detections are rounded to what detectron2's evaluator writes down (three digits of the score)
    and what is exact in every number format between (halves of a pixel), so that both sides evaluate the same.

    Args:
        root: the folder.
        images: of 500 x 375 pixels.
        number_of_classes: each has an object that is not difficult.
        seed: of objects and detections.

    Raises:
        ValueError: no class, or fewer images than classes.
    """

    root: Path
    images: int
    number_of_classes: int
    seed: int = 0
    classes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not 0 < self.number_of_classes <= self.images:
            raise ValueError(
                f"{self.images} images of {self.number_of_classes} classes make no set: "
                "there must be a class, and an image for each"
            )
        object.__setattr__(self, "classes", tuple(f"class{i:02d}" for i in range(self.number_of_classes)))

    def write(self) -> int:
        """Write annotations, split and images; return the number of objects."""
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (self.root / folder).mkdir(parents=True)
        names, count = [], 0
        picture = self.root / "JPEGImages" / "one.jpg"
        Image.new("RGB", (_WIDTH, _HEIGHT)).save(picture)
        for name, labels, boxes, difficult, _ in self._scenes():
            names.append(name)
            count += len(labels)
            os.link(picture, picture.with_name(f"{name}.jpg"))
            (self.root / "Annotations" / f"{name}.xml").write_text(self._annotation(labels, boxes, difficult))
        picture.unlink()
        (self.root / "ImageSets" / "Main" / f"{SPLIT}.txt").write_text("\n".join(names) + "\n")
        return count

    def detections(self) -> list[Found]:
        """Return what a detector finds on every image, in the order of the split."""
        return [(scene[0], self._found(*scene[1:3], scene[4])) for scene in self._scenes()]

    def _scenes(
        self,
    ) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], np.random.Generator]]:
        """Per image its name, the labels (G,) and boxes (G, 4) of its objects, their flags, and its randomness."""
        for image in range(self.images):
            rng = np.random.default_rng((self.seed, image))
            count = 1 + rng.poisson(_OBJECTS)
            labels = np.where(
                rng.random(count) < 0.6, image % len(self.classes), rng.integers(0, len(self.classes), count)
            )
            labels[0] = image % len(self.classes)
            difficult = rng.random(count) < 0.2
            difficult[0] &= image >= len(self.classes)
            yield f"{image:06d}", labels, _boxes(rng, count), difficult, rng

    def _found(
        self, labels: NDArray[np.int64], boxes: NDArray[np.int64], rng: np.random.Generator
    ) -> Instances:
        rows = np.repeat(np.arange(len(labels)), rng.choice(3, len(labels), p=(0.1, 0.6, 0.3)))
        near = boxes[rows] + rng.normal(0, 0.08, (len(rows), 4)) * np.tile(_sides(boxes[rows]), 2)
        guess = np.where(
            rng.random(len(rows)) < 0.9, labels[rows], rng.integers(0, len(self.classes), len(rows))
        )
        anywhere = rng.poisson(_BACKGROUND)
        box = np.concatenate([near, _boxes(rng, anywhere)])
        box = np.round(2 * np.clip(box, 0, [_WIDTH, _HEIGHT] * 2)) / 2
        box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 1)
        score = np.concatenate([rng.beta(4, 2, len(rows)), rng.beta(1, 6, anywhere)])
        label = np.concatenate([guess, rng.integers(0, len(self.classes), anywhere)])
        return Instances(
            (_HEIGHT, _WIDTH),
            pred_boxes=Boxes(torch.from_numpy(box).float()),
            scores=torch.from_numpy(np.round(score, 3)).float(),
            pred_classes=torch.from_numpy(label),
        )

    def _annotation(
        self, labels: NDArray[np.int64], boxes: NDArray[np.int64], difficult: NDArray[np.bool_]
    ) -> str:
        """VOC counts pixels from 1: xmin = x0 + 1, xmax = x1."""
        objects = "".join(
            f"<object><name>{self.classes[label]}</name><pose>Unspecified</pose><truncated>0</truncated>"
            f"<difficult>{int(hard)}</difficult><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
            f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for label, (x0, y0, x1, y1), hard in zip(labels, boxes.tolist(), difficult, strict=True)
        )
        size = f"<size><width>{_WIDTH}</width><height>{_HEIGHT}</height><depth>3</depth></size>"
        return f"<annotation>{size}{objects}</annotation>"


def _boxes(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """(count, 4) whole-pixel boxes inside the image, sides of 8 pixels and more."""
    limits = np.array([_WIDTH, _HEIGHT])
    sides = np.clip(rng.lognormal(4.3, 0.8, (count, 2)), 8, 0.9 * limits).astype(np.int64)
    corner = (rng.random((count, 2)) * (limits - sides)).astype(np.int64)
    return np.concatenate([corner, corner + sides], axis=1)


def _sides(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    return boxes[:, 2:] - boxes[:, :2]
