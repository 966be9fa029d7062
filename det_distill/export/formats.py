"""What `export_student` can write: each format is a function that writes, loads again, compares and reports."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from detectron2.config import CfgNode
from torch import Tensor, nn

__all__ = ["DEFAULT_FORMATS", "FORMATS", "ExportRequest", "Writer", "Written", "writer_of"]


@dataclass(frozen=True)
class ExportRequest:
    """What a format gets.

    Attributes:
        cfg: the run's config.
        plain: the student's own, see `plain_config`.
        model: the student in eval mode on the CPU, float32, with the score threshold of `cfg`; not to be changed.
        images: (C, H, W) uint8, 0 to 255, channels as in ``INPUT.FORMAT``, already resized as for a test, of several
            sizes: what a reloaded file is compared on.
        calibration: n -> the first n images of ``DATASETS.TRAIN``, prepared as for a test, for formats that measure
            the range of activations.
        classes: the names of the classes, by index.
    """

    cfg: CfgNode
    plain: CfgNode
    model: nn.Module
    images: Sequence[Tensor]
    calibration: Callable[[int], Iterable[Tensor]]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """One file that a format wrote and loaded again.

    Attributes:
        file: its name below the export's folder.
        what: for a person: "the whole detector, ONNX, for onnxruntime".
        difference: the largest absolute difference of any output on any of the request's images.
        tolerance: the largest that is accepted; above it the writer has raised an `ExportError`.
        detects: whether `det_distill.predictors.load_predictor` makes predictions with the file, so that its AP, or
            accuracy, can be measured.
    """

    file: str
    what: str
    difference: float
    tolerance: float
    detects: bool = False


Writer = Callable[[ExportRequest, Path], list[Written]]
"""Writes below the folder and checks what it wrote. It raises `check.DoesNotFit`, an `ExportError`, before it writes
anything for a network that the format cannot hold (``--to all`` goes on without it), and `check.ExportError` for a file
that gives other outputs. The first line of its docstring is what ``--to`` without a name says of the format."""

FORMATS: dict[str, str] = {
    "pth": "plain_files:write_pth",
    "pkl": "plain_files:write_pkl",
    "safetensors": "plain_files:write_safetensors",
    "backbone": "plain_files:write_backbone",
    "torchvision": "backbones.write:write_torchvision",
    "timm": "backbones.write:write_timm",
    "onnx": "graphs.onnx_format:write_onnx",
    "onnx-backbone": "graphs.onnx_backbone:write_onnx_backbone",
    "torchscript": "graphs.torchscript:write_torchscript",
    "torch-export": "graphs.torch_export:write_torch_export",
    "bf16": "graphs.half:write_bf16",
    "int8": "graphs.quantised:write_int8",
}
"""Name for ``--to`` -> ``module:function`` below ``det_distill.export``, imported when it is asked for."""

DEFAULT_FORMATS: tuple[str, ...] = ("pth", "safetensors", "backbone")


def writer_of(name: str) -> Writer:
    """Return the function that writes a format.

    Raises:
        ValueError: there is no such format.
    """
    if name not in FORMATS:
        raise ValueError(f"there is no export format {name!r}: choose from {', '.join(FORMATS)}")
    module, _, function = FORMATS[name].partition(":")
    return cast(Writer, getattr(importlib.import_module(f"{__package__}.{module}"), function))
