"""An image classifier on any detectron2 backbone, called like a detector: ``model(batch)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from ..targets import labels_of
from .image_format import check_format, in_format

__all__ = ["GlobalAveragePool", "ImageClassifier"]


class GlobalAveragePool(nn.Module):
    """The mean over all cells of a map: (B, C, H, W) to (B, C).

    Args:
        channels: C, declared as ``output_shape`` for `det_distill.taps.feature_spec`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output_shape = ShapeSpec(channels=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the means."""
        return x.mean(dim=(2, 3))


class _NoEmbedding(nn.Identity):
    """Its input; says of how many channels that is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output_shape = ShapeSpec(channels=channels)


@META_ARCH_REGISTRY.register()
class ImageClassifier(nn.Module):
    """Backbone, global average pool, optional linear embedding, linear classifier.

    Addresses: ``backbone@input`` (normalised pixels), ``backbone:<feature>`` (maps), ``pool`` and ``embedding`` (the
    penultimate vectors, before and behind the linear embedding; the same where there is none), ``classifier``
    (logits, (B, num_classes)).

    A batch is a list of dicts: ``image``, (C, H, W), 0 to 255; in training ``label``, the number of the class, or
    ``target``, (num_classes,), the shares of the classes in a mixed image; ``format`` ("RGB", "BGR" or "L", may be
    absent): an image in another one than the model's is converted, see `in_format`. So a teacher may want another
    order than its student. All images of a batch have one size: padding would enter the average. For the same reason
    sizes are multiples of the backbone's ``size_divisibility``. Images may lie on the model's device already.

    In training it returns ``{"loss_cls": cross entropy, mean over the batch}``, in float32 under autocast too; in eval
    mode a list of ``{"logits": (num_classes,), "embedding": (D,)}`` in float32, one per image.

    Args:
        backbone: returns maps by name. (detectron2's ``MODEL.BACKBONE.FREEZE_AT`` is 2: set it to 0 to train a ResNet
            from random weights; the trainer refuses a frozen part that nothing was loaded into.)
        num_classes: K.
        feature: which map is pooled; "": the last that the backbone declares. Parts of the backbone that it does not
            need get no gradient, which distributed training does not accept: do not build them.
        embedding_dim: width of a linear layer with bias and no activation behind the pooling, initialised by torch's
            default; 0: none. It is the linear embedding of feature mimicking (Wang, Ge and Wu,
            DoctorKey/LSHFM.singleclassification@ae4214e), which stays in the deployed student: with the width of
            the teacher's ``embedding`` a pair there needs no adapter.
        pixel_mean: per channel, in the order of `input_format`, subtracted from pixels of 0 to 255.
        pixel_std: per channel; the difference is divided by it.
        input_format: "RGB", "BGR" or "L" (one channel).
        label_smoothing: e; the target is (1 - e) times what the sample says plus e / K for every class.

    Raises:
        ValueError: no such feature, an unknown format or not a mean and std for each of its channels, or numbers that
            make no sense.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        feature: str = "",
        embedding_dim: int = 0,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "BGR",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        shapes = backbone.output_shape()
        self.feature = feature or list(shapes)[-1]
        if self.feature not in shapes:
            raise ValueError(
                f"MODEL.CLASSIFIER.FEATURE {feature!r}: this backbone returns {', '.join(shapes)}"
            )
        if num_classes < 1 or embedding_dim < 0:
            raise ValueError(
                f"a classifier of {num_classes} classes with an embedding of {embedding_dim} features: "
                "MODEL.CLASSIFIER.NUM_CLASSES must be at least 1, EMBEDDING_DIM at least 0"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"MODEL.CLASSIFIER.LABEL_SMOOTHING {label_smoothing}: at least 0 and below 1")
        check_format(input_format, pixel_mean, pixel_std)
        channels = int(shapes[self.feature].channels or 0)
        self.backbone = backbone
        self.pool = GlobalAveragePool(channels)
        self.embedding = nn.Linear(channels, embedding_dim) if embedding_dim else _NoEmbedding(channels)
        self.classifier = nn.Linear(embedding_dim or channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        self.num_classes, self.input_format = num_classes, input_format
        self.label_smoothing = label_smoothing
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(list(values)).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments that ``MODEL.BACKBONE``, ``MODEL.CLASSIFIER`` and ``INPUT.FORMAT`` describe."""
        return {
            "backbone": build_backbone(cfg),
            "num_classes": cfg.MODEL.CLASSIFIER.NUM_CLASSES,
            "feature": cfg.MODEL.CLASSIFIER.FEATURE,
            "embedding_dim": cfg.MODEL.CLASSIFIER.EMBEDDING_DIM,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "label_smoothing": cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING,
        }

    @property
    def device(self) -> torch.device:
        """Where images are moved to."""
        return self.pixel_mean.device

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> Any:
        """Return the loss in training, logits and embedding of each image in eval mode; see the class."""
        maps = self.backbone(self.normalized_images(batch))
        embedding = self.embedding(self.pool(maps[self.feature]))
        logits = self.classifier(embedding).float()
        if self.training:
            return {"loss_cls": self._cross_entropy(logits, self._targets(batch))}
        rows = zip(logits, embedding.float(), strict=True)
        return [{"logits": row, "embedding": vector} for row, vector in rows]

    def normalized_images(self, batch: Sequence[Mapping[str, Any]]) -> Tensor:
        """Return the images as the backbone gets them, (B, C, H, W).

        Raises:
            ValueError: images of unequal size, of another number of channels, or of a size that the backbone would
                have to pad.
        """
        own = self.input_format
        images = [in_format(sample["image"], sample.get("format", own), own) for sample in batch]
        sizes = {tuple(image.shape) for image in images}
        if len(sizes) > 1:
            raise ValueError(
                f"the images of a batch have different sizes, {', '.join(map(_size, sorted(sizes)))}: set "
                "INPUT.CLASSIFICATION.CROP (and RESIZE), or make batches of one image"
            )
        pixels = torch.stack(images).to(self.device, non_blocking=True)
        channels, height, width = pixels.shape[1:]
        if channels != len(self.pixel_mean):
            raise ValueError(
                f"images of {channels} channels for a classifier with a PIXEL_MEAN of {len(self.pixel_mean)}"
            )
        divisor = max(getattr(self.backbone, "size_divisibility", 0), 1)
        if height % divisor or width % divisor:
            raise ValueError(
                f"images of {height} x {width} pixels: this backbone needs multiples of {divisor}; set "
                "INPUT.CLASSIFICATION.CROP to one"
            )
        return (pixels.float() - self.pixel_mean) / self.pixel_std

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Of logits in float32 and classes (B,) or shares of classes (B, K); smoothed."""
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def _targets(self, batch: Sequence[Mapping[str, Any]]) -> Tensor:
        """Shares (B, K) if the images are mixed, else classes (B,)."""
        if not any("target" in sample for sample in batch):
            return self._labels(batch)
        if not all("target" in sample for sample in batch):
            raise ValueError("some samples of a batch have a 'target' and some have none: mix all or none")
        targets = torch.stack([sample["target"] for sample in batch]).to(self.device, torch.float32)
        if targets.shape[1:] != (self.num_classes,):
            raise ValueError(
                f"targets of {' x '.join(map(str, targets.shape[1:]))} numbers for a classifier of "
                f"{self.num_classes} classes: mixing follows MODEL.CLASSIFIER.NUM_CLASSES"
            )
        return targets

    def _labels(self, batch: Sequence[Mapping[str, Any]]) -> Tensor:
        """Classes (B,); mixed images, which have none, are an error."""
        if any("label" not in sample for sample in batch):
            raise ValueError("training a classifier needs the number of the class, 'label', in every sample")
        return labels_of(batch, self.device)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape[-2:]))
