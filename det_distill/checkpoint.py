"""Files: the student's checkpoints (atomic, resumable from the last good one) and strict loading of teachers."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from .distiller import DISTILL_PREFIX
from .files import (
    FileError,
    checked_address,
    is_whole,
    load_checkpoint,
    load_model_file,
    replace_file,
    replace_text,
)
from .handover import NETWORK, describe, hand_over

__all__ = [
    "StrictCheckpointer",
    "StudentCheckpointer",
    "load_teacher_weights",
    "read_weights",
    "replace_file",
]

logger = logging.getLogger(__name__)

_LAST = "last_checkpoint"
_SHOWN = 2


def read_weights(path: str) -> dict[str, Tensor]:
    """Return the tensors of a file that torch saved: those under ``model`` if it has that key, else all.

    Raises:
        ValueError: the file is not a checkpoint, is cut short, or would run code.
    """
    content = load_checkpoint(path)
    content = content.get("model", content) if isinstance(content, Mapping) else {}
    return {k: torch.as_tensor(v) for k, v in content.items()}


class _SafeCheckpointer(DetectionCheckpointer):
    """`DetectionCheckpointer` whose files cannot run code, see `load_model_file`.

    Raises:
        FileError: when loading: a file that is broken, or that would run code.
    """

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file or URL, see `DetectionCheckpointer`."""
        return super().load(checked_address(path or ""), *args, **kwargs)

    def _load_file(self, filename: str) -> Any:
        loaded = load_model_file(filename)
        url = getattr(self, "_parsed_url_during_load", None)  # of detectron2 since 0.6
        if url is not None and parse_qs(url.query).get("matching_heuristics") == ["True"]:
            loaded["matching_heuristics"] = True
        return loaded


class StudentCheckpointer(_SafeCheckpointer):
    """`DetectionCheckpointer` whose files are whole or absent, and which resumes from the newest readable one.

    A file is written under another name and renamed, and so is the note that names the last one: a killed run leaves
    nothing half-written where resuming looks. If the last file cannot be read all the same, the one before is taken.

    Beside the tensors, a file says what network it holds and how that wants its pixels (`describe`). The backbone of a
    classifier's file is handed over to any other model, see `hand_over`.
    """

    _file = ""

    def _load_file(self, filename: str) -> Any:
        self._file = filename
        return super()._load_file(filename)

    def _load_model(self, checkpoint: Any) -> Any:
        hand_over(checkpoint, self.model, self._file)
        return super()._load_model(checkpoint)

    def save(self, name: str, **kwargs: Any) -> None:
        """Save the model and the checkpointables to ``<name>.pth``, atomically."""
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict(), NETWORK: describe(self.model)}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        file = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", file)
        replace_file(file, lambda temporary: torch.save(data, temporary))
        self.tag_last_checkpoint(os.path.basename(file))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note the file to resume from, atomically."""
        replace_text(os.path.join(self.save_dir, _LAST), last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether there is a readable checkpoint to resume from."""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Return the newest readable checkpoint of the folder, "" if there is none.

        The noted one first, then, newest first, whatever ``.pth`` files of iterations there are. A note that names no
        file of this folder does not count.
        """
        noted = self._noted()
        if noted and is_whole(noted):
            return noted
        others = [os.path.join(self.save_dir, f) for f in _files(self.save_dir)]
        others = sorted(others, key=os.path.getmtime, reverse=True)
        found = ""
        for file in (f for f in others if f != noted):
            if is_whole(file):
                found = file
                break
            logger.warning("%s is cut short or damaged; looking for an earlier checkpoint", file)
        if noted:
            damage = "is cut short or damaged" if os.path.isfile(noted) else "does not exist"
            logger.warning("the last checkpoint, %s, %s: taking %s", noted, damage, found or "none")
        return found

    def _noted(self) -> str:
        """The file that the note names, "" without a note."""
        note = Path(self.save_dir) / _LAST
        if not self.save_dir or not note.is_file():
            return ""
        name = note.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"[^/\\\0\n]+\.pth", name):
            return os.path.join(self.save_dir, name)
        logger.warning("%s names no checkpoint of its folder but %r: it is passed over", note, name[:80])
        return ""


def _files(folder: str) -> list[str]:
    """The checkpoints of a training, which are more than weights: those of an iteration, and the last."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return [f for f in names if re.fullmatch(r"model_(\d+|final)\.pth", f)]


class StrictCheckpointer(_SafeCheckpointer):
    """Loads what `DetectionCheckpointer` can load, and raises ValueError where it would only log.

    Keys that begin with ``distill.`` are left out.
    """

    def _load_model(self, checkpoint: Any) -> Any:
        state = checkpoint["model"]
        checkpoint["model"] = {k: v for k, v in state.items() if not k.startswith(DISTILL_PREFIX)}
        incompatible = super()._load_model(checkpoint)
        wrong = []
        misfits = {m[0] for m in incompatible.incorrect_shapes}
        missing = [k for k in incompatible.missing_keys if k not in misfits]
        if missing:
            wrong.append(_some("tensors are not in the file", missing))
        if incompatible.incorrect_shapes:
            shapes = [f"{k}: file {f}, model {m}" for k, f, m in incompatible.incorrect_shapes]
            wrong.append(_some("have other shapes", shapes))
        constants = ("pixel_mean", "pixel_std", "anchor_generator.cell_anchors")
        extra = [k for k in incompatible.unexpected_keys if not any(c in k for c in constants)]
        if extra and not checkpoint.get("matching_heuristics", False):
            wrong.append(_some("tensors of the file have no place in the model", extra))
        if wrong:
            raise ValueError("; ".join(wrong))
        return incompatible


def _some(what: str, names: Sequence[str]) -> str:
    """How many, and the first of them, in one line."""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}"


def load_teacher_weights(model: nn.Module, weights: str, *, name: str = "teacher") -> None:
    """Load a teacher's weights: any file or URL that detectron2 loads, all of it, or an error.

    Args:
        model: the teacher.
        weights: ``.pth``, ``.safetensors``, zoo ``.pkl`` or a URL; keys that begin with ``distill.`` are ignored.
        name: for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: tensors are missing, superfluous or of other shapes; or the file is broken, or would run code.
    """
    if not weights:
        raise ValueError(f"teacher {name!r} has no WEIGHTS: name its trained checkpoint")
    if "://" not in weights and not os.path.isfile(weights):
        raise FileNotFoundError(f"the weights {weights!r} of teacher {name!r} do not exist")
    try:
        StrictCheckpointer(model).load(weights)
    except FileError as error:
        raise FileError(f"{error} (the weights of teacher {name!r})") from error
    except ValueError as error:
        raise ValueError(f"{weights} does not fit teacher {name!r}: {error}") from error
