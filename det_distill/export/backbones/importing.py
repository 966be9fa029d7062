"""Pretrained backbones of torchvision, timm and detectron2's zoo as a start for a detector, with the right config."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from ...config import get_cfg
from ...convolutions import convolutions_of
from ...files import load_checkpoint
from ...handover import NETWORK
from ..check import ExportError, bottom_up
from .caffe2 import CAFFE2
from .emit import config_of
from .foreign import foreign_network
from .imported import Imported
from .names import COUNTER
from .pixels import RgbPixels, swapped
from .read import note_beside
from .sources import SOURCES, imported
from .write import compare_with

__all__ = ["SOURCES", "ImportedBackbone", "import_backbone"]


@dataclass(frozen=True)
class ImportedBackbone:
    """What `import_backbone` wrote.

    Attributes:
        weights: ``backbone.pth``.
        config: ``config.yaml``.
        keys: what the config says.
        left_out: tensors of the file that a backbone has not, such as a classifier's.
        pixels_from: where mean and standard deviation are from.
        difference: of any map of the image, to that of the library's own network; None: there is no such network.
        tolerance: the largest that is accepted.
    """

    weights: Path
    config: Path
    keys: dict[str, Any]
    left_out: tuple[str, ...]
    pixels_from: str
    difference: float | None
    tolerance: float


def import_backbone(
    file: str,
    source: str,
    model: str,
    output: str | os.PathLike[str],
    *,
    input_format: str = "",
    pixels: RgbPixels | None = None,
    images: Sequence[Tensor] = (),
) -> ImportedBackbone:
    """Turn a file of pretrained weights into a start for detectron2's detectors.

    Writes ``backbone.pth``, which stock ``DetectionCheckpointer`` matches onto a backbone, with a pyramid or without,
    and ``config.yaml``, a Faster R-CNN with a pyramid that has all of it: ``MODEL.BACKBONE.NAME``, depth, widths,
    ``STRIDE_IN_1X1``, ``PIXEL_MEAN``, ``PIXEL_STD`` and ``INPUT.FORMAT`` of these weights. No value changes; channels
    of the first convolution change places if the format that is asked for is not that of the weights.

    What was written is read again and loaded strictly into the backbone of that config. Turned back it is the file, bit
    for bit; and a network of the library that is loaded from the file has the same maps of the images, each prepared
    in its own library's way. (For ``msra`` and ``fair`` no library is at hand.)

    Args:
        file: a state dict of torchvision or timm, or a ``.pkl`` of detectron2's zoo with Caffe2's names.
        source: one of `SOURCES`.
        model: the network's name there: ``"resnet50"``, ``"R-50"``.
        output: the folder; created, files of an earlier import are replaced.
        input_format: ``"RGB"`` or ``"BGR"``; "": what the weights were trained with.
        pixels: what the weights were trained with, where that is not usual for `source`; default: what a note of
            `export_student` beside the file says, else the usual.
        images: (C, H, W), 0 to 255, RGB, to compare maps on; default: noise.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: the folder holds something other than an import.
        ValueError: it is not this network, or an argument is none of those above.
        ExportError: what was written does not give back the network.
    """
    if source not in SOURCES or input_format not in ("", "RGB", "BGR"):
        raise ValueError(
            f"a backbone from {source!r} for {input_format!r} images: there are {', '.join(SOURCES)}, and RGB and BGR"
        )
    folder = Path(output).absolute()
    _check_replaceable(folder)
    original = imported(file, source, model)
    pixels_from = "as asked for" if pixels else f"usual for {source}'s {model}"
    note = note_beside(file) if source not in CAFFE2 and pixels is None else None
    if note is not None:
        pixels, pixels_from = note[0], f"from {Path(file).with_suffix('.json')}"
    original = dataclasses.replace(original, pixels=pixels or original.pixels)
    form = input_format or original.input_format
    keys = config_of(original, model, form, str(folder / "backbone.pth"))
    with tempfile.TemporaryDirectory() as name:
        weights, config = Path(name) / "backbone.pth", Path(name) / "config.yaml"
        config.write_text(yaml.safe_dump(keys, sort_keys=False, default_flow_style=None))
        cfg, part = _built(config)
        state = (
            original.state
            if form == original.input_format
            else swapped(original.state, original.first, "BGR")
        )
        torch.save(_checkpoint(state, part, cfg, f"{source} {model}"), weights)
        _load(part, load_checkpoint(weights)["model"])
        difference, tolerance = _checked(original, part, cfg, source, form, images)
        folder.mkdir(parents=True, exist_ok=True)
        for written in (weights, config):
            partial = folder / f".{written.name}.{os.getpid()}.partial"
            shutil.copyfile(written, partial)
            os.replace(partial, folder / written.name)
    return ImportedBackbone(
        folder / "backbone.pth",
        folder / "config.yaml",
        keys,
        original.left_out,
        pixels_from,
        difference,
        tolerance,
    )


def _check_replaceable(folder: Path) -> None:
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    others = sorted(there - {"backbone.pth", "config.yaml"})
    if others or there == {"config.yaml"} or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(
            f"{folder} exists and is not an earlier import ({', '.join(others[:4] or there) or 'it is a file'}): "
            "name a new folder"
        )


def _built(config: Path) -> tuple[CfgNode, nn.Module]:
    """The config as its user reads it, and the network below the pyramid that it builds."""
    cfg = get_cfg()
    cfg.merge_from_file(str(config))
    holder = nn.Module()
    holder.backbone = build_backbone(cfg)
    return cfg, bottom_up(holder).eval()


def _checkpoint(state: dict[str, Tensor], part: nn.Module, cfg: CfgNode, author: str) -> dict[str, Any]:
    """As the ``backbone.pth`` of `export_student`: counters of batches are left out, frozen norms have none."""
    return {
        "model": {k: v.clone().contiguous() for k, v in state.items() if not k.endswith(COUNTER)},
        "matching_heuristics": True,
        "__author__": author,
        NETWORK: {
            "architecture": type(part).__name__,
            "classifier": False,
            "part": "backbone",
            "input_format": cfg.INPUT.FORMAT,
            "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
            "pixel_std": list(cfg.MODEL.PIXEL_STD),
            "convolutions": convolutions_of(part),
        },
    }


def _load(part: nn.Module, state: dict[str, Tensor]) -> None:
    own = part.state_dict()
    counters = {k: v for k, v in own.items() if k.endswith(COUNTER)}
    try:
        part.load_state_dict({**counters, **state}, strict=True)
    except RuntimeError as error:
        raise ExportError(
            f"what was written does not load into the backbone of its config: {error}"
        ) from error


def _checked(
    original: Imported, part: nn.Module, cfg: CfgNode, source: str, form: str, images: Sequence[Tensor]
) -> tuple[float | None, float]:
    """Largest difference of maps, and what is accepted."""
    kept = {k: v for k, v in part.state_dict().items() if not k.endswith(COUNTER)}
    back = swapped(kept, original.first, "BGR") if form != original.input_format else kept
    wrong = [k for k, v in back.items() if not torch.equal(v, original.state[k])]
    if wrong:
        raise ExportError(f"{len(wrong)} tensors are not those of the file, such as {wrong[0]}")
    if source in CAFFE2:
        return None, 0.0
    holder = nn.Module()
    holder.backbone = part
    foreign = foreign_network(holder, source)
    rgb = list(images) or [_noise()]
    ours = [image.flip(0) if form == "BGR" else image for image in rgb]
    state = swapped(foreign.state, foreign.first, form)
    difference, tolerance = compare_with(foreign, state, original.pixels, cfg, ours)
    if not difference <= tolerance:
        raise ExportError(
            f"the maps of {source}'s {foreign.name} differ by {difference:g} from those of the backbone in "
            f"detectron2, where {tolerance:g} is accepted (nan: they are not finite), so nothing was written"
        )
    return difference, tolerance


def _noise() -> Tensor:
    return torch.randint(0, 256, (3, 160, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
