"""The student's tensors as they are: detectron2's two kinds of checkpoints, and safetensors."""

from __future__ import annotations

import json
import pickle
from importlib import metadata
from pathlib import Path
from typing import Any

import detectron2
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..checkpoint import StrictCheckpointer, read_weights
from ..classification import MetricLearner
from ..convolutions import convolutions_of
from ..handover import NETWORK, describe
from .check import bottom_up, check_weights
from .formats import ExportRequest, Written
from .plain_config import builds

__all__ = ["versions", "write_backbone", "write_pkl", "write_pth", "write_safetensors"]

_AUTHOR = "det_distill"


def write_pth(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``student.pth``, the whole student as a detectron2 checkpoint.

    ``{"model": name -> tensor, "network": ...}``, see `describe`; no name begins with ``distill.``.
    """
    path = folder / "student.pth"
    torch.save({"model": _state(request.model), NETWORK: describe(request.model, request.classes)}, path)
    difference = check_weights(request, path, _load_pth)
    return [
        Written(
            path.name, "whole student: checkpoint of detectron2", difference, 0.0, detects=_predicts(request)
        )
    ]


def write_pkl(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``student.pkl``, the whole student as the files of detectron2's model zoo are.

    A pickle of numpy arrays and plain containers only: ``{"model": name -> array, "__author__": ..., "network": ...}``.
    The names are detectron2's own and complete, so they are not matched by their ends.
    """
    path = folder / "student.pkl"
    arrays = {name: tensor.numpy() for name, tensor in _state(request.model).items()}
    content = {
        "model": arrays,
        "__author__": _AUTHOR,
        "matching_heuristics": False,
        NETWORK: describe(request.model, request.classes),
    }
    path.write_bytes(pickle.dumps(content, protocol=4))
    difference = check_weights(request, path, _load_as_detectron2)
    return [
        Written(
            path.name,
            "whole student: file of detectron2's model zoo",
            difference,
            0.0,
            detects=_predicts(request),
        )
    ]


def write_safetensors(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``student.safetensors``, the whole student with its config, classes and normalisation.

    The metadata are texts: ``config`` (YAML), ``classes`` (a JSON list), ``architecture``, ``backbone``,
    ``input_format`` (RGB, BGR or L), ``pixel_mean`` and ``pixel_std`` (JSON lists; subtract, then divide; for pixels of
    0 to 255), ``network`` (JSON, see `describe`: it makes the file a ``MODEL.WEIGHTS`` like ``student.pth``), and the
    versions of ``torch``, ``detectron2`` and ``det_distill``.
    """
    path = folder / "student.safetensors"
    _save(request, request.model, path, describe(request.model, request.classes))
    difference = check_weights(request, path, _load_safetensors)
    return [
        Written(
            path.name,
            "whole student: safetensors with its config",
            difference,
            0.0,
            detects=_predicts(request),
        )
    ]


def write_backbone(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``backbone.pth`` and ``.safetensors``, the backbone alone; below an FPN the bottom-up network.

    * ``backbone.safetensors``: by its own names, with the metadata of `write_safetensors`.
    * ``backbone.pth``: the same as a start for a detector: stock ``DetectionCheckpointer`` finds the places by the ends
      of the names, below an FPN or without. Counters of batches are left out: frozen batch normalisation has none.
    """
    part = bottom_up(request.model)
    start, named = folder / "backbone.pth", folder / "backbone.safetensors"
    described = {**describe(request.model), "part": "backbone", "convolutions": convolutions_of(part)}
    content = {
        "model": {k: v for k, v in _state(part).items() if not k.endswith("num_batches_tracked")},
        "matching_heuristics": True,
        "__author__": _AUTHOR,
        NETWORK: described,
    }
    torch.save(content, start)
    _save(request, part, named, described)
    return [
        Written(
            start.name,
            "backbone: start of another detector in detectron2",
            check_weights(request, start, _load_below, bottom_up),
            0.0,
        ),
        Written(
            named.name,
            "backbone: safetensors, by its own names",
            check_weights(request, named, _load_safetensors, bottom_up),
            0.0,
        ),
    ]


def versions() -> dict[str, str]:
    """Return the versions of the packages that a student is written by."""
    return {
        "torch": torch.__version__,
        "detectron2": getattr(detectron2, "__version__", "unknown"),
        "det_distill": metadata.version("det_distill"),
    }


def _predicts(request: ExportRequest) -> bool:
    """An embedding is no prediction."""
    return not builds(request.plain.MODEL.META_ARCHITECTURE, MetricLearner)


def _state(part: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in part.state_dict().items()}


def _save(request: ExportRequest, part: nn.Module, path: Path, described: dict[str, Any]) -> None:
    tensors = {k: v.clone().contiguous() for k, v in _state(part).items()}  # which share no memory
    save_file(
        tensors, path, metadata={**_metadata(request), "part": path.stem, NETWORK: json.dumps(described)}
    )


def _metadata(request: ExportRequest) -> dict[str, str]:
    """What it is, how its images are prepared, and which versions wrote it."""
    plain = request.plain
    return {
        "format": "pt",
        "architecture": plain.MODEL.META_ARCHITECTURE,
        "backbone": plain.MODEL.BACKBONE.NAME,
        "backbone_class": type(bottom_up(request.model)).__name__,
        "config": plain.dump(),
        "classes": json.dumps(list(request.classes)),
        "input_format": plain.INPUT.FORMAT,
        "pixel_mean": json.dumps(list(plain.MODEL.PIXEL_MEAN)),
        "pixel_std": json.dumps(list(plain.MODEL.PIXEL_STD)),
        **versions(),
    }


def _load_pth(model: nn.Module, path: Path) -> None:
    model.load_state_dict(read_weights(str(path)), strict=True)


def _load_safetensors(part: nn.Module, path: Path) -> None:
    part.load_state_dict(load_file(path), strict=True)


def _load_as_detectron2(model: nn.Module, path: Path) -> Any:
    return StrictCheckpointer(model).load(str(path))


def _load_below(part: nn.Module, path: Path) -> Any:
    """As detectron2 does, below another level of names."""
    return StrictCheckpointer(nn.ModuleDict({"backbone": part})).load(str(path))
