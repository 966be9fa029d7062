"""The formats ``torchvision`` and ``timm``: the student's backbone for another library, compared on photos."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..check import ExportError
from ..formats import ExportRequest, Written
from .compare import Comparison, compare, outputs_of
from .foreign import Foreign, foreign_network
from .layers import refuse
from .pixels import RgbPixels, normalised, rgb_pixels, swapped

__all__ = ["compare_with", "write_timm", "write_torchvision"]


def write_torchvision(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``backbone_torchvision.pth``, the backbone as a ResNet or VGG of torchvision, and a note of its pixels.

    See `_write`.
    """
    return _write(request, folder, "torchvision")


def write_timm(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``backbone_timm.pth``, the backbone as timm's network, and a note of its pixels.

    See `_write`.
    """
    return _write(request, folder, "timm")


def _write(request: ExportRequest, folder: Path, library: str) -> list[Written]:
    """Write ``backbone_<library>.pth``, a state dict, and ``backbone_<library>.json``, which says how to use it.

    The network there takes RGB pixels of 0 to 1, less a mean, over a standard deviation, as all of that library do: the
    channels of the first convolution are reversed if ``INPUT.FORMAT`` is BGR, no value changes. The note holds
    ``library``, ``version``, ``model`` (its name there), ``construction`` (lines of Python), ``input`` (``channels``,
    ``range``, ``mean``, ``std``) and, where the head of a classifier goes along, ``classes``.

    Both are read again: the state is loaded strictly into what ``construction`` says, and all stages (and logits)
    are compared on the request's images, each side with its own preparation of them.

    Raises:
        DoesNotFit: the library has no such network; nothing was written.
        ExportError: the state does not load there, or outputs differ by more than `TOLERANCE`.
    """
    foreign = foreign_network(request.model, library)
    form = request.plain.INPUT.FORMAT
    try:
        pixels = rgb_pixels(form, request.plain.MODEL.PIXEL_MEAN, request.plain.MODEL.PIXEL_STD)
    except ValueError as error:
        refuse(library, str(error))
    weights, note = folder / f"backbone_{library}.pth", folder / f"backbone_{library}.json"
    state = swapped(foreign.state, foreign.first, form)
    torch.save({k: v.clone().contiguous() for k, v in state.items()}, weights)
    note.write_text(json.dumps(_note(foreign, pixels, form, request.classes), indent=2) + "\n")
    said = json.loads(note.read_text())["input"]
    difference, tolerance = compare_with(
        foreign,
        torch.load(weights, map_location="cpu", weights_only=True),
        RgbPixels(tuple(said["mean"]), tuple(said["std"])),
        request.plain,
        request.images,
    )
    if not difference <= tolerance:
        raise ExportError(
            f"{weights.name}: the maps of {library}'s {foreign.name} differ by {difference:g} from the student's, "
            f"where {tolerance:g} is accepted (nan: they are not finite), so nothing was written"
        )
    what = f"backbone{' and classifier' if foreign.classes else ''} as {library}'s {foreign.name}, which wants RGB"
    files = {weights: what, note: f"how {weights.name} is loaded, and its mean and standard deviation"}
    return [Written(file.name, text, difference, tolerance) for file, text in files.items()]


def _note(foreign: Foreign, pixels: RgbPixels, form: str, classes: tuple[str, ...]) -> dict[str, Any]:
    channels = "L" if form == "L" else "RGB"
    load = (
        f"model.load_state_dict(torch.load('backbone_{foreign.library}.pth', weights_only=True), strict=True)"
    )
    return {
        "library": foreign.library,
        "version": importlib.metadata.version(foreign.library),
        "model": foreign.name,
        "construction": [*foreign.code, "import torch", load],
        "input": {"channels": channels, "range": [0, 1], "mean": list(pixels.mean), "std": list(pixels.std)},
        **({"classes": list(classes)} if foreign.classes else {}),
    }


def compare_with(
    foreign: Foreign, state: Mapping[str, Tensor], pixels: RgbPixels, cfg: CfgNode, images: Sequence[Tensor]
) -> Comparison:
    """Compare a backbone with a new network of the library that a state is loaded into.

    Args:
        foreign: the backbone, in eval mode, and what it is there.
        state: of the library's network; loaded strictly.
        pixels: how that wants its images: RGB, 0 to 1.
        cfg: says how the backbone wants them.
        images: (C, H, W), 0 to 255, in the format of `cfg`; each side prepares them in its own way.

    Raises:
        ExportError: the state does not load strictly, or there are no images.
    """
    if not images:
        raise ExportError("there is no image to compare the networks on: give one with --image")
    theirs = foreign.build().eval()
    try:
        theirs.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ExportError(
            f"the tensors do not load into {foreign.library}'s {foreign.name}: {error}"
        ) from error
    mean, std = (torch.tensor(list(v)).view(-1, 1, 1) for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    return compare(
        (
            outputs_of(foreign.ours, foreign.places, ((image.float() - mean) / std)[None]),
            outputs_of(theirs, foreign.places.values(), normalised(image, cfg.INPUT.FORMAT, pixels)),
        )
        for image in images
    )
