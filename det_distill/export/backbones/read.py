"""Files of pretrained networks as tensors by their names, without what is no tensor of the network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...files import FileError, load_checkpoint, load_json, load_safetensors, load_zoo_pickle
from .pixels import RgbPixels

__all__ = ["note_beside", "read_blobs", "read_state"]

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")


def read_state(path: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict of torchvision or timm: ``.safetensors``, or what torch saved.

    A state dict may lie in a training's checkpoint, under one of the names that their own scripts use (that with
    averaged weights first), and its names may begin with the ``module.`` of training on several GPUs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, would run code, or holds no tensors by name.
    """
    if path.endswith(".pkl"):
        raise FileError(
            f"{path} is a pickle, and neither torchvision nor timm writes one: a file of detectron2's zoo with "
            "detectron2's own names is loaded as it is (MODEL.WEIGHTS), one with Caffe2's is read by --from msra/fair"
        )
    if path.endswith(".safetensors"):
        return load_safetensors(path)[0]
    content: Any = load_checkpoint(path)
    inner = next(
        (
            content[k]
            for k in _WRAPPERS
            if isinstance(content, Mapping) and isinstance(content.get(k), Mapping)
        ),
        content,
    )
    if not isinstance(inner, Mapping) or not inner or not all(isinstance(v, Tensor) for v in inner.values()):
        raise FileError(f"{path} holds no state dict: torch.save(model.state_dict(), ...) writes one")
    return {str(k).removeprefix("module."): v for k, v in inner.items()}


def read_blobs(path: str) -> dict[str, Tensor]:
    """Return the blobs of a Caffe2 network in a ``.pkl`` of detectron2's zoo (or Detectron's), without momenta.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, would run code, or has no blobs of Caffe2.
    """
    content = load_zoo_pickle(path)
    blobs = content.get("blobs", content) if isinstance(content, dict) else content
    if not isinstance(blobs, Mapping):
        raise FileError(
            f"{path} holds no ResNet of Caffe2: its blobs are of type {type(blobs).__name__}, not a table of "
            "arrays by name; download it again, or name another file"
        )
    if "model" in blobs:
        raise FileError(
            f"{path} (of {blobs.get('__author__', 'an unknown author')!r}) has detectron2's own names: it is loaded as "
            "it is, by MODEL.WEIGHTS"
        )
    tensors = {str(k): _tensor(v, str(k), path) for k, v in blobs.items() if hasattr(v, "shape")}
    tensors = {k: v for k, v in tensors.items() if not k.endswith("_momentum")}
    if "conv1_w" not in tensors:
        raise FileError(f"{path} holds no ResNet of Caffe2: it has no blob conv1_w")
    return tensors


def _tensor(value: Any, name: str, path: str) -> Tensor:
    try:
        return torch.as_tensor(value)
    except TypeError as error:
        raise FileError(f"{path}: its blob {name} is an array of {value.dtype}, not of numbers") from error


def note_beside(path: str) -> tuple[RgbPixels, str] | None:
    """Return what the note beside a file of ours says: its pixels, and which network it is; None: there is none.

    Raises:
        FileError: the note is broken.
    """
    file = Path(path).with_suffix(".json")
    if not file.is_file():
        return None
    note = load_json(file)
    try:
        said = note["input"]
        return RgbPixels(tuple(map(float, said["mean"])), tuple(map(float, said["std"]))), str(note["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(
            f"{file} does not say how {Path(path).name} wants its pixels (input: mean, std): mend it, move it away, or "
            "give --mean and --std"
        ) from error
