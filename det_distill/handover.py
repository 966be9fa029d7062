"""A classifier's checkpoint as the start of another model: its backbone by the names that it has there, or an error."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from .classification import ImageClassifier
from .convolutions import compare_convolutions, convolutions_of, offsets_of
from .distiller import DISTILL_PREFIX, Distiller
from .pixels import compare_pixels, pixels_of
from .wrapping import student_of

__all__ = ["NETWORK", "describe", "hand_over"]

logger = logging.getLogger(__name__)

NETWORK = "network"
"""The key of `describe` in a checkpoint; detectron2's own tools ignore it."""

_BELOW = "bottom_up."
_BACKBONE, _BOTTOM_UP, _C4 = "backbone.", f"backbone.{_BELOW}", "roi_heads.res5."
_OF_DETECTORS = ("roi_heads.", "proposal_generator.", "head.")
_EXPORT = (
    ". Another pyramid takes the backbone.pth that tools/export_student.py writes, the network below alone"
)
_COUNTER = (
    "num_batches_tracked"  # batch normalisation that is frozen has none, and with a momentum it is not used
)


def describe(model: nn.Module, classes: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a checkpoint says of its network (of a distilled one: the student) beside the tensors.

    ``architecture``, the name of its class; ``classifier``, whether it is an `ImageClassifier`; ``classes``, the names
    by index, if they are given; and, of a model that has them, ``input_format``, ``pixel_mean``, ``pixel_std`` and
    ``convolutions``, the backbone's by their paths in it, see `convolutions_of`. Texts, truth values, numbers, lists
    and dicts only, so ``weights_only`` loading reads it.
    """
    plain = student_of(model)
    kind: dict[str, Any] = {
        "architecture": type(plain).__name__,
        "classifier": isinstance(plain, ImageClassifier),
    }
    if classes:
        kind["classes"] = list(classes)
    backbone = getattr(plain, "backbone", None)
    moves = {"convolutions": convolutions_of(backbone)} if isinstance(backbone, nn.Module) else {}
    return {**kind, **pixels_of(plain), **moves}


def hand_over(checkpoint: dict[str, Any], model: nn.Module, file: str) -> None:
    """Rename the tensors of a classifier's checkpoint, in place, so that its backbone loads into `model`.

    A classifier with an FPN gives all of its backbone to a model with an FPN. Otherwise the network below an FPN, or
    without one, goes where this model has it, ``backbone.bottom_up.*`` or ``backbone.*``; ``res5`` becomes
    ``roi_heads.res5`` in a detector that has it there (C4). What the model has no place for is left out: the classifier
    and the embedding, later stages, pairs of a distillation; that, and how many tensors arrive, is logged. Offsets of
    deformable convolutions that the file lacks stay as they were built, which is logged. A model that is a classifier,
    too, keeps its other tensors where they fit; a classifier or embedding of another shape is left out with a warning.

    So is treated a file that `describe` calls a classifier's or that, without such a note, has ``backbone.*`` and
    ``classifier.*`` but nothing of a detector; and a ``backbone.pth`` of `export_student`. Other files stay as they
    are, and so does any in a run that trains paraphrasers. Of every file that says them, the pixels are compared with
    the model's, see `compare_pixels`, and so are the convolutions that arrive, see `compare_convolutions`.

    Args:
        checkpoint: ``{"model": name -> tensor, ...}``.
        model: where it is going to be loaded; distilled or not.
        file: its name, for messages.

    Raises:
        ValueError: a tensor of the model's backbone is not in the file, or is of another shape.
    """
    described = checkpoint.get(NETWORK)
    note = described if isinstance(described, Mapping) else {}
    student = student_of(model)
    compare_pixels(note, pixels_of(student), file)
    if _trains_paraphrasers(model):
        return
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    parts = _parts(checkpoint)
    if parts is None:
        names = [k for k in checkpoint["model"] if k.startswith(_BACKBONE) and k in own]
        _compare_convolutions(note, {k: k.removeprefix(_BACKBONE) for k in names}, student, file)
        return
    backbone, others = parts
    places = _places(backbone, own)
    taken = {place: backbone[name] for place, name in places.items()}
    _check(taken, own, offsets_of(student), any(k.startswith(_BELOW) for k in backbone), file)
    _compare_convolutions(note, places, student, file)
    kept: dict[str, Tensor] = {}
    if isinstance(student, ImageClassifier):
        pairs = (DISTILL_PREFIX,) if isinstance(model, Distiller) else ()
        kept = {k: v for k, v in others.items() if k.startswith(pairs) or _fits(k, v, own, file)}
    used = set(places.values())
    left_out = [_BACKBONE + k for k in backbone if k not in used and not k.endswith(_COUNTER)]
    left_out += [k for k in others if k not in kept]
    if left_out or not isinstance(student, ImageClassifier):
        _report(taken, left_out, file)
    checkpoint["model"] = {**taken, **kept}
    checkpoint.pop("matching_heuristics", None)


def _trains_paraphrasers(model: nn.Module) -> bool:
    from .paraphrasers import ParaphraserTrainee  # which imports checkpoint.py, which imports this file

    return isinstance(model, ParaphraserTrainee)


def _parts(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    """The backbone by its own names, and all else by the file's; None: nothing to be handed over."""
    state: Mapping[str, Tensor] = checkpoint["model"]
    described = checkpoint.get(NETWORK)
    if isinstance(described, Mapping) and described.get("part") == "backbone":
        return dict(state), {}
    if isinstance(described, Mapping):
        classifiers = bool(described.get("classifier"))
    else:
        classifiers = "classifier.weight" in state and not any(k.startswith(_OF_DETECTORS) for k in state)
    backbone = {k.removeprefix(_BACKBONE): v for k, v in state.items() if k.startswith(_BACKBONE)}
    if not classifiers or not backbone:
        return None
    return backbone, {k: v for k, v in state.items() if not k.startswith(_BACKBONE)}


def _prefix(own: Iterable[str]) -> str:
    return _BOTTOM_UP if any(k.startswith(_BOTTOM_UP) for k in own) else _BACKBONE


def _places(backbone: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, str]:
    """The model's name -> the name in the backbone, of each tensor that the model has a place for."""
    prefix, places = _prefix(own), {}
    for name in backbone:
        bare = name.removeprefix(_BELOW)
        head = f"roi_heads.{bare}"
        for place in (_BACKBONE + name, prefix + bare, head if head.startswith(_C4) else ""):
            if place in own:
                places[place] = name
    return places


def _compare_convolutions(
    note: Mapping[str, Any], places: Mapping[str, str], student: nn.Module, file: str
) -> None:
    """Compare those whose tensors arrive, of a file that says how they move."""
    said = note.get("convolutions", {})
    modules = {place.rpartition(".")[0]: name.rpartition(".")[0] for place, name in places.items()}
    theirs = {here: said[there] for here, there in modules.items() if there in said}
    compare_convolutions(theirs, convolutions_of(student), file)


def _check(
    taken: Mapping[str, Tensor],
    own: Mapping[str, tuple[int, ...]],
    offsets: Container[str],
    pyramid: bool,
    file: str,
) -> None:
    """Raise ValueError unless all is there; of a model with an FPN all below it, or, from an FPN, all of that, too."""
    whole = _BACKBONE if pyramid else _prefix(own)
    wanted = [k for k in own if k.startswith((whole, _C4)) and not k.endswith(_COUNTER)]
    zero = [k for k in wanted if k in offsets and k not in taken]
    wanted = [k for k in wanted if k not in zero]
    if not wanted:
        raise ValueError(
            f"{file} holds a classifier, whose backbone could be taken, but this model has no tensors of the name "
            f"{_BACKBONE}*, only {', '.join(_stages(own)) or 'none'}"
        )
    missing = [k for k in wanted if k not in taken]
    misfits = [k for k in wanted if k in taken and tuple(taken[k].shape) != own[k]]
    if not missing and not misfits:
        if zero:
            logger.info(
                "Offsets of deformable convolutions that %s has not stay as they were built, which is zero in "
                "detectron2: %s",
                *(file, "; ".join(_counted(zero))),
            )
        return
    what = f"{len(wanted) - len(missing) - len(misfits)} of the {len(wanted)} tensors of this model's backbone fit"
    if missing:
        what += f"; not in the file: {'; '.join(_counted(missing))}"
    if misfits:
        shapes = [f"{k} (file {tuple(taken[k].shape)}, model {own[k]})" for k in misfits[:4]]
        what += f"; {len(misfits)} of other shapes: {', '.join(shapes)}"
    raise ValueError(
        f"{file} holds a backbone that is not this model's: {what}. Give the classifier and this model the same kind "
        "of backbone with the same options (depth, widths, norm), and the classifier every stage that is wanted here"
        + (_EXPORT if pyramid and _prefix(own) == _BOTTOM_UP else "")
    )


def _counted(names: Iterable[str]) -> list[str]:
    """By stage, how many tensors there are, and which is the first."""
    stages: dict[str, list[str]] = {}
    for name in names:
        stages.setdefault(_stage(name), []).append(name)
    return [f"{stage}, {len(of)} tensors (such as {of[0]})" for stage, of in stages.items()]


def _stage(name: str) -> str:
    """The module below the backbone; of another tensor its first module."""
    for prefix in (_BOTTOM_UP, _BACKBONE, _C4):
        if name.startswith(prefix):
            rest = "" if prefix == _C4 else name.removeprefix(prefix).split(".")[0]
            return prefix + rest if rest else prefix.rstrip(".")
    return name.split(".")[0]


def _stages(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(_stage, names)))


def _fits(name: str, value: Tensor, own: Mapping[str, tuple[int, ...]], file: str) -> bool:
    """Whether a tensor of the classifier's own layers has its place in another classifier."""
    if name in own and own[name] != tuple(value.shape):
        logger.warning(
            "%s of %s is left out and begins at random: its shape is %s in the file and %s in this model (another "
            "number of classes, or another embedding)",
            *(name, file, tuple(value.shape), own[name]),
        )
    return name in own and own[name] == tuple(value.shape)


def _report(taken: Iterable[str], left_out: Iterable[str], file: str) -> None:
    """Say what arrived; all that the model wants is there."""
    counted = [k for k in taken if not k.endswith(_COUNTER)]
    below = _BOTTOM_UP if all(k.startswith((_BOTTOM_UP, _C4)) for k in counted) else _BACKBONE
    logger.info(
        "The backbone in %s arrived, all %d tensors of it that this model has, below %s. Left out: %s",
        file,
        len(counted),
        " and ".join(dict.fromkeys((_C4 if k.startswith(_C4) else below)[:-1] for k in counted)),
        ", ".join(_stages(left_out)) or "nothing",
    )
