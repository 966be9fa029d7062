"""Files that may be hostile or cut short: how they are read, so that none runs code, and written, whole or not at all.

docs/safety.md says what is read how.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from .notes import wrong_entry
from .numpy_pickles import RefusedName, ZooUnpickler, plain, safe_for_torch

__all__ = [
    "FileError",
    "check_note",
    "checked_address",
    "is_whole",
    "load_checkpoint",
    "load_json",
    "load_model_file",
    "load_safetensors",
    "load_zoo_pickle",
    "output_folder",
    "replace_file",
    "replace_text",
    "write_json",
]

_NETWORK = "network"  # see handover.describe


class FileError(ValueError):
    """A file that is broken, or refused because reading it could run code; the message begins with its name."""


def replace_file(file: str, write: Callable[[str], Any]) -> None:
    """Write a file whole or not at all: `write` is given the name of another one, which then takes its place."""
    temporary = f"{file}.{os.getpid()}.partial"
    try:
        write(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, file)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def replace_text(file: str | Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    replace_file(str(file), lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def write_json(file: Path, content: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file whole or not at all, with its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, json.dumps(content, indent=indent))


def output_folder(path: str, *inner: str) -> Path:
    """Make the folder of a report, its parents and folders within it, and see that files can be written there.

    Raises:
        OSError: one is a file, or cannot be made or written to; names it.
    """
    for folder in (Path(path), *(Path(path) / name for name in inner)):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"--output: {folder} is a file: name a folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OSError(f"--output: cannot write to the folder {folder}: {error.strerror}") from None
    return Path(path)


def is_whole(file: str) -> bool:
    """Whether a ``.pth`` file's archive is complete, and every byte of its content as it was written.

    Its directory stands at the end, so a cut file has none. The content is read and compared with the checksums that
    torch writes, unless it was told to write none (`torch.serialization.set_crc32_options`), which leaves zeros.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if any(info.CRC for info in archive.infolist()) and archive.testzip() is not None:
                return False
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, ValueError, RuntimeError, EOFError, struct.error, zlib.error, zipfile.BadZipFile):
        return False


def checked_address(address: str) -> str:
    """Return an address as it is, if a download from it stays in the folder of downloads.

    iopath keeps what it downloads under the address's own path, so ``..`` in that would write anywhere.

    Raises:
        FileError: there is ``..`` in a URL.
    """
    if "://" in address:
        paths = (address.partition("://")[2], urlparse(address).path)
        if any(part.strip() == ".." for path in paths for part in re.split(r"[/\\?#;]", path)):
            raise FileError(
                f"{address} is refused: a URL with '..' in it could write outside the folder of downloads"
            )
    return address


def load_checkpoint(path: str | Path) -> Any:
    """Return the content of a file that torch saved: tensors, numbers, texts, numpy's values and plain containers.

    Tensors come to the CPU. Both of torch's formats are read, with ``weights_only``.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is cut short or no such file, or it would run code.
    """
    with _told(path), torch.serialization.safe_globals(safe_for_torch()):
        return plain(torch.load(path, map_location="cpu", weights_only=True))


def load_zoo_pickle(path: str | Path) -> Any:
    """Return the content of a ``.pkl`` file of a model zoo: numpy arrays and numbers, texts and plain containers.

    Texts of Python 2 are read as latin1, as detectron2 does.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is cut short or no pickle, or it names a function or class beyond those, or holds Python objects.
    """
    with _told(path), open(path, "rb") as file:
        return plain(ZooUnpickler(file, encoding="latin1").load())


def load_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file, and its metadata.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is cut short or no such file.
    """
    from safetensors import safe_open

    with _told(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def load_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: no JSON, no UTF-8, or nested too deeply.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is no JSON that can be read: {error}") from error


def load_model_file(path: str) -> dict[str, Any]:
    """Return a file of weights as ``{"model": name -> value, ...}``, read as detectron2 would, but safely.

    ``.pkl``: of detectron2's zoo, or of Caffe2's, whose names are to be matched (``matching_heuristics``); ``.pyth``:
    of pycls, likewise; ``.safetensors``: the metadata's ``network``, if it is JSON, comes along; else torch's.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is broken, would run code, or holds no weights, or its note is wrong, see `check_note`.
    """
    content = _read_model_file(path)
    model = content["model"]
    if not isinstance(model, Mapping) or not all(isinstance(name, str) for name in model):
        raise FileError(f"{path} holds no weights: what it has for a model is no table of tensors by name")
    check_note(content.get(_NETWORK), path)
    return content


def _read_model_file(path: str) -> dict[str, Any]:
    if path.endswith(".safetensors"):
        tensors, metadata = load_safetensors(path)
        return {"model": tensors, **_network(metadata)}
    content = load_zoo_pickle(path) if path.endswith(".pkl") else load_checkpoint(path)
    if not isinstance(content, dict):
        raise FileError(f"{path} holds no weights: it is a {type(content).__name__}, not a table")
    if path.endswith(".pkl"):
        if "model" in content and "__author__" in content:
            return content
        blobs = _table(content.get("blobs", content), path, "blobs")
        kept = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
        return {"model": kept, "__author__": "Caffe2", "matching_heuristics": True}
    if path.endswith(".pyth"):
        if "model_state" not in content:
            raise FileError(f"{path} holds no weights: a .pyth file of pycls has them under 'model_state'")
        state = _table(content["model_state"], path, "model_state")
        kept = {k: v for k, v in state.items() if not str(k).endswith("num_batches_tracked")}
        return {"model": kept, "__author__": "pycls", "matching_heuristics": True}
    return content if "model" in content else {"model": content}


def check_note(note: Any, path: str) -> None:
    """See that what a file says of its network has the form that `handover.describe` gives it.

    A note that is no table, or that is not there, says nothing.

    Raises:
        FileError: an entry of another kind; says which.
    """
    if isinstance(note, Mapping) and (wrong := wrong_entry(note)):
        raise FileError(
            f"{path}: in what it says of its network, {wrong}. Export the network again, or take that entry out"
        )


def _table(value: Any, path: str, key: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise FileError(
            f"{path} holds no weights: its {key!r} is of type {type(value).__name__}, not a table of tensors by name; "
            "download it again, or name another file"
        )
    return value


def _network(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        return {_NETWORK: json.loads(metadata[_NETWORK])}
    except (KeyError, ValueError, RecursionError):
        return {}


@contextmanager
def _told(path: str | Path) -> Iterator[None]:
    """Tell whatever goes wrong as a `FileError`; a broken pickle can raise nearly anything."""
    try:
        yield
    except (OSError, FileError):
        raise
    except Exception as error:
        called = error.name if isinstance(error, RefusedName) else _refused_by_torch(error)
        if called:
            raise FileError(
                f"{path} is refused: reading it would call {called}, and what may call that can run any program. "
                "Nothing of it was run. Ask for the weights as safetensors, or see docs/safety.md"
            ) from None
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else _first_line(error)
        raise FileError(f"{path} is not a readable checkpoint: {reason}") from error


def _refused_by_torch(error: Exception) -> str:
    """The function or class that ``weights_only`` loading refuses; "" for other errors."""
    found = re.search(r"GLOBAL (\S+)|unrecognized function (.+?)(?: which|$)", str(error))
    return (
        next(filter(None, found.groups()), "") if found and isinstance(error, pickle.UnpicklingError) else ""
    )


def _first_line(error: Exception) -> str:
    """What went wrong, without torch's advice to read the file unsafely."""
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else f"it ends too early ({type(error).__name__})"
