"""The files of a folder in PASCAL VOC layout: which images a split lists, which classes there are."""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from det_distill.data.problems import DatasetReport
from det_distill.data.voc_xml import AnnotationError, read_annotation


def discover_classes(root: Path) -> tuple[str, ...]:
    """The sorted class names in all annotation files of a folder; files that cannot be read are passed over.

    Args:
        root: the folder in VOC layout.
    """
    return _scan(root / "Annotations", _modified(root / "Annotations"))[0]


def note_unreadable(root: Path, names: set[str], report: DatasetReport) -> None:
    """Report the unreadable annotation files that `discover_classes` passed over.

    Args:
        root: the folder in VOC layout.
        names: the images of the split; their files are left to its reader.
        report: gets "annotation file outside the split not readable".
    """
    for path, detail in _scan(root / "Annotations", _modified(root / "Annotations"))[1]:
        if path.relative_to(root / "Annotations").with_suffix("").as_posix() not in names:
            report.add("annotation file outside the split not readable", path, detail)


def _modified(folder: Path) -> int:
    return folder.stat().st_mtime_ns if folder.is_dir() else 0


@lru_cache(maxsize=8)
def _scan(folder: Path, modified: int) -> tuple[tuple[str, ...], tuple[tuple[Path, str], ...]]:
    """Class names and unreadable files below a folder; `modified` makes the cache notice new files."""
    names: set[str] = set()
    unreadable: list[tuple[Path, str]] = []
    for path in sorted(folder.rglob("*.xml")):
        try:
            names.update(entry.name for entry in read_annotation(path).objects)
        except AnnotationError as error:
            unreadable.append((path, str(error)))
    return tuple(sorted(names)), tuple(unreadable)


def split_file(root: Path, split: str) -> Path:
    """The file that lists the images of a split."""
    return root / "ImageSets" / "Main" / f"{split}.txt"


def split_names(root: Path, split: str, report: DatasetReport) -> list[str]:
    """The image names of a split, each once, in the order of the file.

    Blank lines, CRLF and a second column of -1, 0 or 1 (VOC's lists per class; ignored) are accepted.

    Args:
        root: the folder in VOC layout.
        split: the name of a file in ImageSets/Main, without .txt.
        report: gets "folder missing", "split not found", "split not readable" or "image listed twice".
    """
    folders = [root, *(root / part for part in ("Annotations", "ImageSets/Main", "JPEGImages"))]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        report.add(
            "folder missing", missing[0], "a VOC folder has Annotations, ImageSets/Main and JPEGImages"
        )
        return []
    path = split_file(root, split)
    if not path.is_file():
        present = sorted(entry.stem for entry in path.parent.glob("*.txt"))
        report.add("split not found", path, f"there are: {', '.join(present) or 'none'}")
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        report.add("split not readable", path, f"not a UTF-8 text file: {error}")
        return []
    return list(_distinct((_image_name(line.strip(), root) for line in lines if line.strip()), path, report))


def _image_name(line: str, root: Path) -> str:
    """The name in a line of a split file, without VOC's second column."""
    match = re.fullmatch(r"(.*\S)\s+(-1|0|1)", line)
    if match and not (root / "Annotations" / f"{line}.xml").is_file():
        return match[1]
    return line


def _distinct(names: Iterator[str], path: Path, report: DatasetReport) -> Iterator[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            report.add("image listed twice", path, name)
        else:
            seen.add(name)
            yield name
