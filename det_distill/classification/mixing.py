"""Mixup and cutmix: images of a batch are mixed, and so are their targets, before any model sees them.

A teacher is given the very pixels that the student is given, and answers for the mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn
from torchvision.transforms import v2

from ..data.loader import images_per_process
from ..distiller import Distiller
from ..wrapping import student_of
from .metric_learning import MetricLearner

__all__ = ["Mixer", "check_mixing", "mix", "mixer"]

Mixer = Callable[[list[dict[str, Any]], int], list[dict[str, Any]]]


def mixer(cfg: CfgNode) -> Mixer | None:
    """Return the function from a batch and its seed to the mixed batch, see `mix`; None: nothing is to be mixed.

    Args:
        cfg: gives MIXUP and CUTMIX of INPUT.CLASSIFICATION, MODEL.CLASSIFIER.NUM_CLASSES.

    Raises:
        ValueError: an alpha below 0, or batches of a single image.
    """
    mixup, cutmix = float(cfg.INPUT.CLASSIFICATION.MIXUP), float(cfg.INPUT.CLASSIFICATION.CUTMIX)
    if min(mixup, cutmix) < 0:
        raise ValueError(
            f"INPUT.CLASSIFICATION has MIXUP {mixup} and CUTMIX {cutmix}: an alpha above 0, or 0 for none"
        )
    if not mixup and not cutmix:
        return None
    if images_per_process(cfg) < 2:
        raise ValueError(_TOO_FEW)
    alphas = {"mixup": mixup, "cutmix": cutmix}
    classes, device = cfg.MODEL.CLASSIFIER.NUM_CLASSES, torch.device(cfg.MODEL.DEVICE)
    return lambda batch, seed: mix(batch, classes=classes, **alphas, seed=seed, device=device)


def check_mixing(cfg: CfgNode, model: nn.Module) -> None:
    """Raise what the first step would raise, if a model's losses cannot do with mixed images.

    Raises:
        ValueError: the config mixes images, and a pair, or the losses of a `MetricLearner`, need the class of each.
    """
    node = cfg.INPUT.CLASSIFICATION
    if not node.MIXUP and not node.CUTMIX:
        return
    pairs = model.distill.by_name() if isinstance(model, Distiller) else {}
    student = student_of(model)
    refused = [f"pair {name!r}" for name, pair in pairs.items() if "labels" in pair.needs]
    if isinstance(student, MetricLearner):
        refused.append("MetricLearner")
    if refused:
        raise ValueError(
            f"mixed images have no class of their own, which this training needs for {', '.join(refused)}: set MIXUP "
            "and CUTMIX of INPUT.CLASSIFICATION to 0"
        )


def mix(
    batch: Sequence[dict[str, Any]],
    *,
    classes: int,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    seed: int,
    device: torch.device | None = None,
) -> list[dict[str, Any]]:
    """Mix each image with the one before it, the first with the last; one share for the whole batch.

        mixup    image = s image + (1 - s) other                         s drawn from Beta(mixup, mixup)
        cutmix   a rectangle is the other image's; it covers 1 - s       s drawn from Beta(cutmix, cutmix), then
                                                                         corrected where the border cut it off
        target   s onehot(label) + (1 - s) onehot(other label)

    By torchvision's ``v2.MixUp`` and ``v2.CutMix``. Where both have an alpha, one of the two is drawn, equally likely.

    Args:
        batch: samples with ``image``, (C, H, W) of one size, and ``label``, on any device.
        classes: K.
        mixup: alpha; 0: no mixup.
        cutmix: alpha; 0: no cutmix.
        seed: all that is drawn is a function of it; the state of the process's generators is left as it was.
        device: where they are mixed, and stay; None: where they are.

    Returns:
        New samples with ``image`` in float32 and ``target``, float32 (K,), which sums to 1; ``label`` stays the
        image's own.

    Raises:
        ValueError: fewer than two images, images of unequal size, a label that is no class, or no alpha.
    """
    choices = [
        kind(alpha=a, num_classes=classes) for kind, a in ((v2.MixUp, mixup), (v2.CutMix, cutmix)) if a
    ]
    if not choices:
        raise ValueError("neither mixup nor cutmix has an alpha above 0")
    if len(batch) < 2:
        raise ValueError(_TOO_FEW)
    if len({sample["image"].shape for sample in batch}) > 1:
        raise ValueError(
            "only images of one size can be mixed: set INPUT.CLASSIFICATION.CROP, or MIXUP and CUTMIX to 0"
        )
    numbers = [int(sample["label"]) for sample in batch]
    if not 0 <= min(numbers) <= max(numbers) < classes:
        raise ValueError(
            f"labels from {min(numbers)} to {max(numbers)} do not fit {classes} classes: see "
            "MODEL.CLASSIFIER.NUM_CLASSES"
        )
    images = torch.stack([sample["image"] for sample in batch]).to(device, non_blocking=True).float()
    labels = torch.tensor(numbers, device=images.device)
    with torch.random.fork_rng(devices=[]):  # all is drawn on the CPU
        torch.default_generator.manual_seed(seed)
        images, targets = choices[int(torch.randint(len(choices), ()))](images, labels)
    rows = zip(batch, images, targets, strict=True)
    return [{**sample, "image": image, "target": target} for sample, image, target in rows]


_TOO_FEW = (
    "mixup and cutmix need at least two images in each process's batch: raise SOLVER.IMS_PER_BATCH, or set MIXUP and "
    "CUTMIX of INPUT.CLASSIFICATION to 0"
)
