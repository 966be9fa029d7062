"""The student of a run as files of its own, each loaded again and compared before it is handed over."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import detectron2
import torch
from detectron2.config import CfgNode
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoint import StrictCheckpointer
from ..classification import ImageClassifier
from ..config import build_student
from ..convolutions import convolutions_of
from ..handover import NETWORK, describe
from .check import ANY_SIZE, bottom_up, check_files
from .plain_config import needs_det_distill, plain_config, read_plain_config

__all__ = ["StudentExport", "export_student"]

_FILES = ("student.pth", "config.yaml", "student.safetensors", "backbone.safetensors", "backbone.pth")


@dataclass(frozen=True)
class StudentExport:
    """What `export_student` wrote.

    Attributes:
        folder: holds the files.
        sizes: file name -> bytes.
        differences: file name -> largest absolute difference between the outputs of the model and of a new
            one that was loaded from the file; 0 for every file.
        needs_det_distill: the student has parts that stock detectron2 lacks.
        architecture: its ``MODEL.META_ARCHITECTURE``.
        pixels: key of a config -> value, as the network wants its images: ``INPUT.FORMAT``, ``MODEL.PIXEL_MEAN``,
            ``MODEL.PIXEL_STD``.
    """

    folder: Path
    sizes: dict[str, int]
    differences: dict[str, float]
    needs_det_distill: bool
    architecture: str
    pixels: dict[str, Any]


def export_student(
    cfg: CfgNode, weights: str, output: str | os.PathLike[str], *, image: Tensor | None = None
) -> StudentExport:
    """Write the student of a distilled or plain run to a folder.

    * ``student.pth``: a detectron2 checkpoint, ``{"model": ..., "network": ...}`` (see `describe`); no key of its
      tensors begins with ``distill.``.
    * ``config.yaml``: the student's config, see `plain_config`; ``MODEL.WEIGHTS`` names ``student.pth``.
    * ``student.safetensors``: the same tensors.
    * ``backbone.safetensors``: the backbone alone, by its own key names; below an FPN the bottom-up network
      alone.
    * ``backbone.pth``: the same as a start for a detector: stock ``DetectionCheckpointer`` finds the places by the
      ends of the names, below an FPN or without. Counters of batches are left out: frozen batch normalisation has none.

    The metadata of the safetensors are texts: ``architecture``, ``backbone``, ``input_format`` (RGB, BGR or L),
    ``pixel_mean`` and ``pixel_std`` (JSON lists; subtract, then divide; for pixels of 0 to 255), and the
    versions of ``torch`` and ``detectron2``.

    Every file is loaded into a new model, strictly, whose outputs on one image must be those of the first,
    bit for bit. The models run on the CPU, with a score threshold of 0 so that there are detections to
    compare. Teachers are neither built nor loaded. The folder appears when all is written and checked; an
    earlier export there is replaced.

    Args:
        cfg: a run's config, distilled or not.
        weights: its checkpoint: any file or URL that detectron2 loads and that has all of the student.
        output: the folder.
        image: (C, H, W), 0 to 255, channels as in ``cfg.INPUT.FORMAT``, to compare on; default: noise, for a
            classifier of the size of its crops.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        FileExistsError: the folder holds something other than an export.
        ValueError: the checkpoint is not this student's.
        ExportError: a reloaded model gives other outputs.
    """
    folder = Path(output).absolute()
    _check_replaceable(folder)
    plain = plain_config(cfg)
    model = _loaded(cfg, weights)
    plain.MODEL.WEIGHTS = str(folder / "student.pth")
    temporary = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    temporary.mkdir(parents=True)
    try:
        _write(temporary, plain, model)
        written = read_plain_config(temporary / "config.yaml", needs_det_distill(plain))
        differences = check_files(temporary, model, lambda: _build(written), image, _size(cfg, model))
        _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sizes = {name: (folder / name).stat().st_size for name in _FILES}
    return StudentExport(
        folder,
        sizes,
        differences,
        needs_det_distill(plain),
        plain.MODEL.META_ARCHITECTURE,
        {
            "INPUT.FORMAT": plain.INPUT.FORMAT,
            "MODEL.PIXEL_MEAN": list(plain.MODEL.PIXEL_MEAN),
            "MODEL.PIXEL_STD": list(plain.MODEL.PIXEL_STD),
        },
    )


def _check_replaceable(folder: Path) -> None:
    others = sorted(set(os.listdir(folder)) - set(_FILES)) if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(
            f"{folder} exists and is not an earlier export ({', '.join(others[:4]) or 'it is a file'}): "
            "name a new folder"
        )


def _loaded(cfg: CfgNode, weights: str) -> nn.Module:
    if "://" not in weights and not os.path.isfile(weights):
        raise FileNotFoundError(
            f"the checkpoint {weights!r} does not exist: name the student's trained weights"
        )
    model = _build(cfg)
    try:
        StrictCheckpointer(model).load(weights)
    except ValueError as error:
        raise ValueError(
            f"{weights} does not hold the student of this config (is it a teacher's, a paraphraser's or only "
            f"a backbone's file?): {error}"
        ) from error
    return model


def _build(cfg: CfgNode) -> nn.Module:
    """The student on the CPU, showing detections of any score."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    return build_student(cfg, "cpu").eval()


def _size(cfg: CfgNode, model: nn.Module) -> tuple[int, int]:
    """Height and width of images that the network takes: of a classifier its crops, or the one size it is built for."""
    side = 0
    if isinstance(model, ImageClassifier):
        side = cfg.INPUT.CLASSIFICATION.CROP or getattr(model.backbone, "image_size", 0)
    return (side, side) if side > 0 else ANY_SIZE


def _write(folder: Path, plain: CfgNode, model: nn.Module) -> None:
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    described = describe(model)
    torch.save({"model": state, NETWORK: described}, folder / "student.pth")
    torch.save(_backbone_checkpoint(model, described), folder / "backbone.pth")
    (folder / "config.yaml").write_text(plain.dump())
    metadata = _metadata(plain, model)
    for name, part in (("student", model), ("backbone", bottom_up(model))):
        # safetensors refuses tensors that share memory
        tensors = {k: v.detach().cpu().clone().contiguous() for k, v in part.state_dict().items()}
        save_file(tensors, folder / f"{name}.safetensors", metadata={**metadata, "part": name})


def _backbone_checkpoint(model: nn.Module, described: dict[str, Any]) -> dict[str, Any]:
    part = bottom_up(model)
    state = part.state_dict()
    return {
        "model": {k: v.detach().cpu() for k, v in state.items() if not k.endswith("num_batches_tracked")},
        "matching_heuristics": True,
        "__author__": "det_distill",
        NETWORK: {**described, "part": "backbone", "convolutions": convolutions_of(part)},
    }


def _metadata(plain: CfgNode, model: nn.Module) -> dict[str, str]:
    """What it is, how its images are prepared, and which versions wrote it."""
    return {
        "format": "pt",
        "architecture": plain.MODEL.META_ARCHITECTURE,
        "backbone": plain.MODEL.BACKBONE.NAME,
        "backbone_class": type(bottom_up(model)).__name__,
        "input_format": plain.INPUT.FORMAT,
        "pixel_mean": json.dumps(list(plain.MODEL.PIXEL_MEAN)),
        "pixel_std": json.dumps(list(plain.MODEL.PIXEL_STD)),
        "torch": torch.__version__,
        "detectron2": getattr(detectron2, "__version__", "unknown"),
    }


def _replace_folder(temporary: Path, folder: Path) -> None:
    old = folder.parent / f".{folder.name}.old-{os.getpid()}"
    if folder.exists():
        folder.rename(old)
    try:
        temporary.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
