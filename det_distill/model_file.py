"""The file of a trained network: found, with the config of its network, and loaded whole."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from .checkpoint import StrictCheckpointer
from .engine import load_config
from .files import FileError, check_note, load_safetensors
from .handover import NETWORK
from .pixels import compare_pixels, pixels_of

__all__ = ["GRAPHS", "config_of", "load_weights", "model_file"]

GRAPHS = (".onnx", ".ts", ".pt2")
"""Ends of the names of exported graphs, which need no config."""

_CHECKPOINTS = (".pth", ".pkl", ".safetensors")
_OF_A_FOLDER = ("student.pth", "model_final.pth", "student.safetensors", "student.pkl")


class _Weights(StrictCheckpointer):
    """Keeps what the file says of its network."""

    note: Mapping[str, Any] = {}

    def _load_file(self, filename: str) -> Any:
        if filename.endswith(".safetensors"):
            tensors, texts = load_safetensors(filename)
            content: Any = {"model": tensors, NETWORK: _note(texts)}
        else:
            content = super()._load_file(filename)
        said = content.get(NETWORK)
        check_note(said, filename)
        self.note = said if isinstance(said, Mapping) else {}
        if self.note.get("part") == "backbone":
            raise FileError(f"{filename} holds a backbone alone, which predicts nothing")
        return content


def _note(texts: Mapping[str, str]) -> dict[str, Any]:
    """The metadata of a safetensors file, in the words of `det_distill.handover.describe`."""
    found: dict[str, Any] = {k: texts[k] for k in ("part", "input_format") if k in texts}
    for key in ("pixel_mean", "pixel_std", "classes"):
        try:
            found[key] = json.loads(texts[key])
        except (KeyError, ValueError, RecursionError):
            continue
    return found


def load_weights(model: nn.Module, file: Path) -> Mapping[str, Any]:
    """Load every tensor of a model, and return the file's note about its network, see `det_distill.handover.describe`.

    Raises:
        ValueError: the file cannot be read, is a backbone alone, or has not just the tensors of the model.
    """
    weights = _Weights(model)
    try:
        weights.load(str(file))
    except FileError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{file} does not hold the weights of the network that the config describes: {error}"
        ) from error
    compare_pixels(weights.note, pixels_of(model), str(file))
    return weights.note


def model_file(path: str | os.PathLike[str]) -> Path:
    """Return the file that is meant by a path: itself, or the one of a folder.

    Raises:
        FileNotFoundError: no such file, or none in the folder.
        ValueError: it is not called like a model.
    """
    path = Path(path)
    if path.is_dir():
        inside = next((path / name for name in _OF_A_FOLDER if (path / name).is_file()), None)
        if inside is None:
            kinds = (*_CHECKPOINTS, *GRAPHS)
            there = sorted(p.name for p in path.iterdir() if p.suffix in kinds)
            named = f"name one of its files: {', '.join(there)}" if there else "it has no weights at all"
            raise FileNotFoundError(f"{path} has none of {', '.join(_OF_A_FOLDER)}: {named}")
        return inside
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no model {str(path)!r}: name a checkpoint, an export or its folder"
        )
    if path.suffix not in (*_CHECKPOINTS, *GRAPHS):
        ends = ", ".join((*_CHECKPOINTS, *GRAPHS))
        raise ValueError(f"{path} is no model: the name of one ends in {ends}")
    return path


def config_of(file: Path, config: str | os.PathLike[str] | None, opts: list[Any]) -> CfgNode:
    """Return the config that is named, or lies beside the file, or is inside it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: what is wrong in it, or in `opts`, which override it.
    """
    beside = file.parent / "config.yaml"
    if config is not None or beside.is_file():
        return load_config(os.fspath(config or beside), opts)
    inside = load_safetensors(file)[1].get("config", "") if file.suffix == ".safetensors" else ""
    if not inside:
        raise FileNotFoundError(
            f"there is no config.yaml beside {file}: name the config of its network (--config-file)"
        )
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, f"{file.name}.yaml")
        text.write_text(inside, encoding="utf-8")
        return load_config(str(text), opts)
