"""What a step's folder was made from, and whether it is finished: how a recipe goes on where it stopped."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from detectron2.config import CfgNode

from ..files import FileError, load_json, replace_text

__all__ = ["StepState", "exclusive", "fingerprint", "move_aside", "read_state", "write_state"]

logger = logging.getLogger(__name__)

_FILE = "recipe_step.json"
_NO_INFLUENCE = {"OUTPUT_DIR": "", "PROGRESS_BAR": "", "MODEL.DEVICE": ""}


@dataclass(frozen=True)
class StepState:
    """The note in a step's folder.

    Attributes:
        fingerprint: of what the step is made from.
        finished: False from the step's first moment until it ended well.
        seconds: that its last run took.
    """

    fingerprint: str
    finished: bool = False
    seconds: float = 0.0


def fingerprint(cfg: CfgNode, inputs: Iterable[Path]) -> str:
    """Return a hash of a step's config and of the files of other steps that it starts from.

    What the config only names, the data, a teacher's config or weights that no step made, does not count.

    Args:
        cfg: its complete config; where its output goes, the device and the progress bar do not count.
        inputs: the checkpoints that it starts from; their content counts, not where they lie.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([item for pair in _NO_INFLUENCE.items() for item in pair])
    digest = hashlib.sha256(cfg.dump().encode())
    for path in inputs:
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        digest.update(b"/")
    return digest.hexdigest()


def read_state(folder: Path) -> StepState | None:
    """Return the note of a step's folder; None if the folder is absent or empty.

    Raises:
        FileExistsError: there are files but no note, so no recipe made them.
    """
    if (folder / _FILE).is_file():
        return _read(folder / _FILE)
    if folder.exists() and any(not f.name.startswith(_FILE) for f in folder.iterdir()):
        raise FileExistsError(
            f"{folder} holds files that no recipe made: remove it, or choose another folder with --output"
        )
    return None


def _read(file: Path) -> StepState:
    try:
        return StepState(**load_json(file))
    except (FileError, TypeError) as error:
        logger.warning("the note %s cannot be read, so its step is done again: %s", file, error)
        return StepState(fingerprint="")


def write_state(folder: Path, state: StepState) -> None:
    """Write the note, atomically; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / _FILE, json.dumps(asdict(state), indent=1))


def move_aside(folder: Path) -> Path:
    """Rename ``<output>/<step>`` to the first free ``<output>/replaced/<step>-<number>`` and return that."""
    replaced = folder.parent / "replaced"
    replaced.mkdir(exist_ok=True)
    number = 1
    while (replaced / f"{folder.name}-{number}").exists():
        number += 1
    return folder.rename(replaced / f"{folder.name}-{number}")


@contextmanager
def exclusive(folder: Path) -> Iterator[int]:
    """Hold the folder for this process and the children that inherit the yielded file descriptor.

    Raises:
        BlockingIOError: another recipe is at work in it, or a process that one left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another recipe is at work in {folder}: wait for it, or choose another folder with --output"
            ) from None
        yield lock.fileno()
