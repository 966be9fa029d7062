"""Where pretrained backbones come from, and how each file becomes detectron2's tensors, all of them or an error."""

from __future__ import annotations

from pathlib import Path

import torch

from ...files import FileError
from ...modeling.timm_backbone import TimmBackbone, import_timm
from .caffe2 import CAFFE2, imported_caffe2
from .imported import Imported, another
from .names import COUNTER, from_torchvision
from .networks import HEADS, NETWORKS, blueprint, body_shapes, fitting, known_by
from .pixels import IMAGENET, RgbPixels
from .read import read_state
from .timm_networks import first_convolution, plain_name, timm_pixels

__all__ = ["SOURCES", "imported", "models_of"]

SOURCES = ("torchvision", "timm", *CAFFE2)


def models_of(source: str) -> list[str]:
    """Return the names that ``--model`` takes; timm knows more."""
    return list(CAFFE2[source]) if source in CAFFE2 else known_by(source)


def imported(path: str, source: str, model: str) -> Imported:
    """Read a file as the network that it is said to be.

    Args:
        path: the file.
        source: ``"torchvision"``, ``"timm"``, or a key of `CAFFE2`.
        model: the network's name there; timm's may have a tag behind a dot, which says what pixels it wants.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no such network; or the file is another one, and which, if that is known.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: name the weights of {source}'s {model}")
    if source in CAFFE2:
        return imported_caffe2(path, source, model)
    name = model.partition(".")[0] if source == "timm" else model
    if name in known_by(source):
        pixels = timm_pixels(model) if source == "timm" else IMAGENET
        return _native(path, source, name, pixels)
    if source == "timm":
        return _timm(path, name, timm_pixels(model))
    raise ValueError(
        f"det_distill does not know {source}'s {model!r}: it takes {', '.join(models_of(source))}"
    )


def _native(path: str, source: str, name: str, pixels: RgbPixels) -> Imported:
    """A ResNet or VGG that torchvision and timm have by the same names (timm's extractor of maps: nearly)."""
    stored = {k.replace("features_", "features.", 1): v for k, v in read_state(path).items()}
    expected = body_shapes(blueprint(source, name).state_dict())
    expected = {k.replace("features_", "features.", 1): v for k, v in expected.items()}
    found = body_shapes(stored)
    if found != expected:
        other = fitting(found, "torchvision")
        raise FileError(another(path, f"{source}'s {name}", expected, found, other))
    vgg = NETWORKS[name].vgg
    state = {k if vgg else from_torchvision(k): stored[k] for k in expected}
    left_out = tuple(k for k in stored if k.startswith(HEADS))
    first = "features.0.weight" if vgg else "stem.conv1.weight"
    return Imported(state, first, name, "RGB", pixels, left_out=left_out)


def _timm(path: str, name: str, pixels: RgbPixels) -> Imported:
    """Any other network of timm, as a timm backbone returns its maps by default."""
    stored = {plain_name(k): v for k, v in read_state(path).items()}
    with torch.device("meta"):
        body = TimmBackbone(name).body
        whole = import_timm().create_model(name)
    own = {k: tuple(v.shape) for k, v in body.state_dict().items()}
    expected = {plain_name(k): v for k, v in own.items()}
    counters = {k for k in expected if k.endswith(plain_name(COUNTER))}
    found = {k: tuple(v.shape) for k, v in stored.items()}
    known = {plain_name(k): tuple(v.shape) for k, v in whole.state_dict().items()} | expected
    head = _classifier_of(whole)
    others = {
        k: v for k, v in found.items() if k not in expected and not k.startswith(head) and known.get(k) != v
    }
    here = {k: found[k] for k in expected if k in found}
    if {**here, **others} != {k: v for k, v in expected.items() if k in here or k not in counters}:
        raise FileError(another(path, f"timm's {name}", expected, {**here, **others}, ""))
    state = {f"body.{k}": stored[plain_name(k)] for k in own if plain_name(k) in stored}
    left_out = tuple(k for k in stored if k not in expected)
    return Imported(state, f"body.{first_convolution(body)}", "", "RGB", pixels, left_out=left_out)


def _classifier_of(whole: torch.nn.Module) -> tuple[str, ...]:
    """How the tensors of the last layer begin, whose shape is that of the classes."""
    names = getattr(whole, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{plain_name(n)}." for n in ([names] if isinstance(names, str) else names))
