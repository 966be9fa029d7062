"""Exported files are loaded into newly built models, whose outputs have to be those of the exported model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn

from ..config import build_student
from .formats import ExportRequest
from .plain_config import as_read

__all__ = [
    "DoesNotFit",
    "ExportError",
    "bottom_up",
    "check_weights",
    "largest_difference",
    "tensors_in",
    "whole",
]

Part = Callable[[nn.Module], nn.Module]


class ExportError(RuntimeError):
    """A written file did not give back the model that it was written from."""


class DoesNotFit(ExportError):
    """A format cannot hold this network, or something it needs is not there: ``--to all`` goes on without it."""


def bottom_up(model: nn.Module) -> nn.Module:
    """Return the backbone alone: below an FPN, its bottom-up network."""
    backbone: Any = model.backbone
    return getattr(backbone, "bottom_up", backbone)


def whole(model: nn.Module) -> nn.Module:
    """Return the model."""
    return model


@torch.no_grad()
def check_weights(
    request: ExportRequest, path: Path, load: Callable[[nn.Module, Path], None], part: Part = whole
) -> float:
    """Load a file of weights into a new model, built from the written config, and compare outputs bit for bit.

    Compared are, on every image of the request, the maps of the backbone and the detections of any score, or the
    logits; for a part that is not the whole the maps of that part.

    Args:
        request: what was exported.
        path: the file.
        load: loads it into the part of a model, strictly.
        part: what the file holds, of a model.

    Returns:
        The largest absolute difference, which is 0.

    Raises:
        ExportError: the file does not load, or outputs differ or are not finite.
    """
    original, fresh = _of_any_score(request.cfg), _of_any_score(as_read(request.plain.dump()))
    original.load_state_dict(request.model.state_dict())
    try:
        load(part(fresh), path)
    except (RuntimeError, ValueError) as error:
        raise ExportError(
            f"{path.name} does not load into a model built from config.yaml: {error}"
        ) from error
    found = []
    for image in request.images:
        found.append(largest_difference(*(_outputs(m, part(m), image) for m in (original, fresh))))
    difference = float(torch.tensor(found, dtype=torch.float64).max())  # of which any NaN is NaN
    if difference != 0:
        raise ExportError(
            f"{path.name}: the reloaded model's outputs differ by {difference:g} from the exported one's (nan: they "
            "are not finite), so nothing was written"
        )
    return difference


def _of_any_score(cfg: CfgNode) -> nn.Module:
    """A new model that shows every detection, so that there are some to compare."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    return build_student(cfg, "cpu").eval()


def _outputs(model: Any, part: Any, image: Tensor) -> list[Tensor]:
    inputs = [{"image": image, "height": image.shape[-2], "width": image.shape[-1]}]
    classifier = hasattr(model, "normalized_images")
    images = model.normalized_images(inputs) if classifier else model.preprocess_image(inputs).tensor
    found = [model.backbone(images), model(inputs)] if part is model else part(images)
    return list(tensors_in(found))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested containers, boxes and instances, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Instances):
        yield from tensors_in(value.get_fields())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from tensors_in(value[key])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(getattr(value, "tensor", None), Tensor):
        yield value.tensor


def largest_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest absolute difference of any element.

    NaN if an element is not a number; infinite for other shapes or types, or nothing to compare.
    """
    if [(t.shape, t.dtype) for t in expected] != [(t.shape, t.dtype) for t in found]:
        return float("inf")
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if a.numel()]
    if not pairs:
        return float("inf")
    return float(torch.stack([(a.double() - b.double()).abs().max() for a, b in pairs]).max())
