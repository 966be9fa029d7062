"""``bf16``: the student's weights in half the bytes, as safetensors."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...classification import ImageClassifier, MetricLearner
from ..check import DoesNotFit, ExportError
from ..formats import ExportRequest, Written
from ..plain_files import versions
from .compare import compare_roughly, of_model

__all__ = ["halved", "write_bf16"]

TOLERANCE = 0.5


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with every weight of 2 dimensions or more in bfloat16.

    Vectors (biases, scales and statistics of norms) are a few thousandths of the bytes and stay as they are: a running
    variance, which a norm divides by, has no precision to give away.
    """
    return {
        name: (t.to(torch.bfloat16) if t.is_floating_point() and t.dim() > 1 else t).clone().contiguous()
        for name, t in state.items()
    }


def write_bf16(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``student_bf16.safetensors``, the whole student with weights in bfloat16.

    Its metadata are those of ``student.safetensors`` and ``precision``: "bfloat16". Load it into the float32 model (the
    weights are converted as they are copied) and, to compute in bfloat16 too, run that under
    ``torch.autocast(device, dtype=torch.bfloat16)``, as it is compared here::

        from safetensors.torch import load_file
        model.load_state_dict(load_file("student_bf16.safetensors"))
        with torch.autocast("cuda", dtype=torch.bfloat16), torch.no_grad():
            found = model([{"image": image}])

    Raises:
        DoesNotFit: neither a detector nor a classifier.
        ExportError: the file does not hold the rounded weights, or what is found with it has little to do with what
            the student finds.
    """
    model: Any = request.model
    if not (isinstance(model, ImageClassifier) or hasattr(model, "roi_heads") or hasattr(model, "head")):
        raise DoesNotFit(
            f"{type(model).__name__} is neither a detector nor a classifier: export to safetensors"
        )
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    path, rounded = folder / "student_bf16.safetensors", halved(state)
    save_file(rounded, path, metadata=_metadata(request))
    found = load_file(path)
    if found.keys() != rounded.keys() or not all(torch.equal(found[k], rounded[k]) for k in found):
        raise ExportError(f"{path.name} does not hold the student's weights rounded to bfloat16")
    half: nn.Module = copy.deepcopy(model).eval()
    half.load_state_dict(found, strict=True)

    def run(image: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return dict(of_model(half, image))

    gap = compare_roughly(request, path, run, TOLERANCE)
    return [
        Written(
            path.name,
            "whole student: weights in bfloat16; det_distill computes with them in float32",
            gap,
            TOLERANCE,
            detects=not isinstance(model, MetricLearner),
        )
    ]


def _metadata(request: ExportRequest) -> dict[str, str]:
    """Those of ``student.safetensors``, and the precision."""
    plain = request.plain
    return {
        "format": "pt",
        "part": "student",
        "precision": "bfloat16",
        "architecture": plain.MODEL.META_ARCHITECTURE,
        "config": plain.dump(),
        "classes": json.dumps(list(request.classes)),
        "input_format": plain.INPUT.FORMAT,
        "pixel_mean": json.dumps(list(plain.MODEL.PIXEL_MEAN)),
        "pixel_std": json.dumps(list(plain.MODEL.PIXEL_STD)),
        **versions(),
    }
