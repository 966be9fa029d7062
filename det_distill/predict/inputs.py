"""What a person names on the command line, as a list of images and videos, each with the name of its picture."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.images import SUFFIXES

__all__ = ["IMAGES", "VIDEOS", "Input", "find_inputs"]

IMAGES = (*SUFFIXES, ".gif")
"""Ends of the names that are images in a folder, in any case."""

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".mts")
"""Ends of the names that are videos, in any case."""


@dataclass(frozen=True)
class Input:
    """One image or video.

    Attributes:
        path: the file, as it was named.
        picture: where its boxes are drawn, relative to the folder of the results.
        is_video: by the end of its name.
    """

    path: Path
    picture: Path
    is_video: bool


def find_inputs(named: Sequence[str], output: Path, *, recursive: bool = False) -> list[Input]:
    """Return every image and video of the files, folders and patterns in `named`, each once, in that order.

    A folder stands for the images and videos in it, in the order of their names; its sub-folders are left out unless
    `recursive`, and so are hidden files and, always, the folder `output`. A name that is no file is a pattern if it has
    ``*``, ``?`` or ``[``. A file that is named is an image, whatever it is called, unless it is called like a video.

    The picture of a JPEG file is a JPEG file, that of another image a PNG, that of a video an MP4. Pictures of a
    folder's files have their places in that folder; of two of one name the second gets a number.

    Args:
        named: as on the command line.
        output: the folder of the results.
        recursive: take the files in sub-folders, too.

    Raises:
        FileNotFoundError: a name or pattern that is nothing, or a folder that has nothing.
        ValueError: a picture would take the place of an input.
    """
    files: dict[Path, tuple[Path, Path]] = {}
    for name in named:
        for path, relative in _files(name, output, recursive):
            files.setdefault(path.resolve(), (path, relative))
    found, taken = [], set[str]()
    for path, relative in files.values():
        is_video = path.suffix.lower() in VIDEOS
        picture = _unique(relative.with_suffix(_end(path, is_video)), taken)
        if (output / picture).resolve() in files:
            raise ValueError(
                f"the picture of {path} would take the place of {output / picture}, which is an input: "
                "name another folder for the results"
            )
        found.append(Input(path, picture, is_video))
    return found


def _files(name: str, output: Path, recursive: bool) -> Iterable[tuple[Path, Path]]:
    """Each file, and what it is called below the folder that was named."""
    path = Path(name)
    if path.is_dir():
        return _folder(path, output, recursive)
    if path.is_file():
        return [(path, Path(path.name))]
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
    if not matches:
        what = "nothing has a name like" if glob.has_magic(name) else "there is no file or folder"
        raise FileNotFoundError(f"{what} {name!r}")
    inside = [p for m in map(Path, matches) for p in ([m] if m.is_file() else _list(m, output, False))]
    if not inside:
        raise FileNotFoundError(f"{name!r} names folders without images or videos")
    return [(p, Path(p.name)) for p in inside]


def _folder(folder: Path, output: Path, recursive: bool) -> list[tuple[Path, Path]]:
    found = list(_list(folder, output, recursive))
    if not found:
        entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
        below = sum(p.is_dir() for p in entries)
        hint = (
            f"; its {below} sub-folders are left out without --recursive" if below and not recursive else ""
        )
        raise FileNotFoundError(
            f"the folder {folder} has no image ({', '.join(IMAGES)}) and no video ({', '.join(VIDEOS)}) among its "
            f"{len(entries) - below} files{hint}"
        )
    return [(p, p.relative_to(folder)) for p in found]


def _list(folder: Path, output: Path, recursive: bool) -> Iterator[Path]:
    results = output.resolve()
    for parent, folders, names in os.walk(folder):
        below = [Path(parent) / f for f in sorted(folders) if recursive and not f.startswith(".")]
        folders[:] = [f.name for f in below if f.resolve() != results]
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in (*IMAGES, *VIDEOS):
                yield Path(parent) / name


def _end(path: Path, is_video: bool) -> str:
    if is_video:
        return ".mp4"
    return ".jpg" if path.suffix.lower() in (".jpg", ".jpeg") else ".png"


def _unique(picture: Path, taken: set[str]) -> Path:
    """The name, or with a number; names that differ in case alone are one file on some systems."""
    candidate, number = picture, 1
    while str(candidate).casefold() in taken:
        number += 1
        candidate = picture.with_name(f"{picture.stem}-{number}{picture.suffix}")
    taken.add(str(candidate).casefold())
    return candidate
