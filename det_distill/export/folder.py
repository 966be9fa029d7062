"""The folder of an export appears whole or not at all, and takes the place of an earlier export only."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from .formats import Written

__all__ = ["MANIFEST", "check_replaceable", "files_in", "new_folder", "write_manifest"]

MANIFEST = "export.json"
"""What an export says of its files; a folder is an export if it lists all that is in it."""

_BEFORE = {"student.pth", "config.yaml", "student.safetensors", "backbone.safetensors", "backbone.pth"}
"""The files of an export without a manifest, by earlier versions; all of them are there."""


def check_replaceable(folder: Path) -> None:
    """Check that a folder is not there, or is empty, or holds an earlier export only.

    Raises:
        FileExistsError: it is a file, or something else is in it.
    """
    if not folder.exists():
        return
    others = sorted(set(files_in(folder)) - _listed(folder)) if folder.is_dir() else []
    if others or not folder.is_dir():
        raise FileExistsError(
            f"{folder} exists and is not an earlier export ({', '.join(others[:4]) or 'it is a file'}): "
            "name a new folder"
        )


def files_in(folder: Path) -> list[str]:
    """Return the names of all files below a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def write_manifest(folder: Path, written: Sequence[Written], digests: Mapping[str, str]) -> None:
    """Write `MANIFEST`: of every file its size, its SHA-256 and, of the formats' files, what they are and differ by."""
    by_name = {file.file: file for file in written}
    files = {}
    for name, digest in digests.items():
        known = asdict(by_name[name]) if name in by_name else {}
        known.pop("file", None)
        files[name] = {"bytes": (folder / name).stat().st_size, "sha256": digest, **known}
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=1) + "\n")


def _listed(folder: Path) -> set[str]:
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return {MANIFEST, *(str(file) for file in files)}
    except (OSError, ValueError, KeyError, TypeError):
        return _BEFORE if _BEFORE <= set(files_in(folder)) else set()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside, which takes the place of `folder` at the end, and goes if anything is raised."""
    temporary = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in files_in(temporary):  # safetensors makes files that nobody else can read
            (temporary / file).chmod(0o666 & ~_umask())
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)  # which can only be read by setting it
    os.umask(mask)
    return mask


def _replace(temporary: Path, folder: Path) -> None:
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
