"""The demonstration set: trees on real aerial photos, in PASCAL VOC layout.

The photos and their hand-drawn boxes are data files of the Python package ``deepforest`` (MIT, Ben
Weinstein); it is located, never imported. One photo is split into a left part for training and a right part
for testing, so no pixel is in both; a photo of another site shows how a detector generalises. Both are cut
into 384-pixel tiles.

``python -m det_distill.data.demo [folder]`` prepares it by hand.
"""

import argparse
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from PIL import Image

from .catalog import dataset_folder
from .voc_xml import read_annotation

TILE = 384
KEEP = 0.4
JPEG_QUALITY = 92
FOLDER = "tree_tiles"
_NEAR_SITE = "2019_YELL_2_528000_4978000_image_crop2"
_OTHER_SITE = "2019_YELL_2_541000_4977000_image_crop"


class LabelledBox(NamedTuple):
    """A labelled box in pixels, 0-based: it covers columns x0 to x1 - 1 and rows y0 to y1 - 1."""

    label: str
    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class Part:
    """A vertical band of a photo that makes up one split.

    Attributes:
        split: name of the file in ``ImageSets/Main``, and first part of the tiles' names.
        photo: file name without suffix; ``.png`` is the picture, ``.xml`` its boxes.
        left, right: the band's first pixel column and the one behind its last.
        keep_empty: whether tiles without a box are part of the split.
    """

    split: str
    photo: str
    left: int
    right: int
    keep_empty: bool


PARTS = (
    Part("train", _NEAR_SITE, 0, 1531, keep_empty=False),
    Part("test", _NEAR_SITE, 1531, 2299, keep_empty=True),
    Part("othersite", _OTHER_SITE, 0, 1249, keep_empty=True),
)

_NOTICE = """Tree tiles: a demonstration set for object detection, in PASCAL VOC layout
=========================================================================

Cut by det_distill from the aerial photos in the Python package deepforest (https://github.com/weecology/DeepForest),
with the boxes drawn by its authors. MIT License, Copyright (c) 2019, Ben Weinstein; its text is in LICENSE.

Splits (ImageSets/Main), tiles of {tile} x {tile} pixels, class "Tree":
{splits}
train and test are different parts of one photo and share no pixel. A box belongs to a tile if {keep:.0%}
of its area lie in it, and is clipped to it. Training tiles without a box are left out.
"""


def prepare_demo_tiles(root: str | Path) -> Path:
    """Make the demonstration set in ``root/tree_tiles``, unless it is there, and return that folder.

    It has ``Annotations``, ``ImageSets/Main/{train,test,othersite}.txt``, ``JPEGImages``, ``README.txt`` and
    ``LICENSE``. It appears in one step when all files are written, so an interrupted preparation leaves none;
    two processes may prepare it at the same moment. The same package gives the same files.

    Raises:
        FileNotFoundError: the package ``deepforest`` is not installed.
        FileExistsError: the folder is there but is not a complete set.
    """
    target = Path(root) / FOLDER
    if target.exists():
        return _checked(target)
    photos = _photo_folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent, prefix=f".{FOLDER}-", ignore_cleanup_errors=True
    ) as made:
        work = Path(made) / FOLDER
        counts = [cut_part(photos, part, work) for part in PARTS]
        splits = "".join(
            f"  {part.split:<10}{tiles:>3} tiles {boxes:>4} boxes\n"
            for part, (tiles, boxes) in zip(PARTS, counts, strict=True)
        )
        (work / "README.txt").write_text(
            _NOTICE.format(tile=TILE, keep=KEEP, splits=splits), encoding="utf-8"
        )
        (work / "LICENSE").write_text(_LICENSE, encoding="utf-8")
        try:
            os.rename(work, target)
        except OSError:  # another process was faster
            return _checked(target)
    return target


def cut_part(photos: Path, part: Part, out: Path) -> tuple[int, int]:
    """Cut one part of a photo into tiles and write pictures, annotations and the split's list below ``out``.

    Args:
        photos: folder with ``<part.photo>.png`` and ``.xml``.
        part: what to cut.
        out: folder in VOC layout, made or added to.

    Returns:
        Number of tiles and of boxes written.
    """
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    boxes = read_voc_boxes(photos / f"{part.photo}.xml")
    names, count = [], 0
    with Image.open(photos / f"{part.photo}.png") as opened:
        photo = opened.convert("RGB")
    for y in tile_starts(photo.height, TILE):
        for x in (part.left + start for start in tile_starts(part.right - part.left, TILE)):
            inside = boxes_in_tile(boxes, x, y, TILE, KEEP)
            if not inside and not part.keep_empty:
                continue
            name = f"{part.split}_{y:04d}_{x:04d}"
            photo.crop((x, y, x + TILE, y + TILE)).save(
                out / "JPEGImages" / f"{name}.jpg", quality=JPEG_QUALITY
            )
            _write_annotation(out / "Annotations" / f"{name}.xml", name, inside)
            names.append(name)
            count += len(inside)
    (out / "ImageSets" / "Main" / f"{part.split}.txt").write_text("\n".join(names) + "\n", encoding="ascii")
    return len(names), count


def tile_starts(length: int, tile: int) -> list[int]:
    """First pixels of ``round(length / tile)`` tiles spread evenly from edge to edge of ``length`` pixels.

    Neighbours leave a gap or overlap a little, rather than a strip at the end being lost. A single tile
    starts at 0.

    Raises:
        ValueError: ``length`` is less than one tile.
    """
    if length < tile:
        raise ValueError(f"A part of {length} pixels is too small for tiles of {tile} pixels.")
    count = max(1, math.floor(length / tile + 0.5))
    return [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]


def boxes_in_tile(boxes: Sequence[LabelledBox], x: int, y: int, tile: int, keep: float) -> list[LabelledBox]:
    """The boxes of which the fraction ``keep`` or more of the area lies in a tile, clipped to it.

    Args:
        boxes: boxes in the photo's frame.
        x, y: the tile's upper left pixel in the photo.
        tile: its width and height in pixels.
        keep: from 0 to 1; a box without any pixel in the tile is never kept.

    Returns:
        The kept boxes in the tile's own frame, in the given order.
    """
    kept = []
    for box in boxes:
        x0, y0 = max(box.x0 - x, 0), max(box.y0 - y, 0)
        x1, y1 = min(box.x1 - x, tile), min(box.y1 - y, tile)
        area = (box.x1 - box.x0) * (box.y1 - box.y0)
        if x1 > x0 and y1 > y0 and (x1 - x0) * (y1 - y0) >= keep * area:
            kept.append(LabelledBox(box.label, x0, y0, x1, y1))
    return kept


def read_voc_boxes(file: Path) -> list[LabelledBox]:
    """The boxes of a VOC annotation (1-based corners, both in the box) as :class:`LabelledBox`, in its order."""
    return [LabelledBox(item.name, *(round(x) for x in item.box)) for item in read_annotation(file).objects]


def _write_annotation(file: Path, name: str, boxes: Sequence[LabelledBox]) -> None:
    root = Element("annotation")
    SubElement(root, "folder").text = FOLDER
    SubElement(root, "filename").text = f"{name}.jpg"
    size = SubElement(root, "size")
    for key, value in (("width", TILE), ("height", TILE), ("depth", 3)):
        SubElement(size, key).text = str(value)
    for box in boxes:
        item = SubElement(root, "object")
        for key, text in (
            ("name", box.label),
            ("pose", "Unspecified"),
            ("truncated", "0"),
            ("difficult", "0"),
        ):
            SubElement(item, key).text = text
        corners = SubElement(item, "bndbox")
        for key, value in (("xmin", box.x0 + 1), ("ymin", box.y0 + 1), ("xmax", box.x1), ("ymax", box.y1)):
            SubElement(corners, key).text = str(value)
    indent(root)
    ElementTree(root).write(file, encoding="unicode")


def _photo_folder() -> Path:
    spec = find_spec("deepforest")
    folders = [Path(f) / "data" for f in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        if all((folder / f"{part.photo}{suffix}").is_file() for part in PARTS for suffix in (".png", ".xml")):
            return folder
    raise FileNotFoundError(
        "The demonstration photos are data files of the Python package deepforest, which is not installed "
        "(or lacks them): `pip install --no-deps deepforest` is enough, its code is not used."
    )


def _checked(target: Path) -> Path:
    """``target`` if every listed tile is there."""
    for part in PARTS:
        listing = target / "ImageSets" / "Main" / f"{part.split}.txt"
        names = listing.read_text(encoding="ascii").split() if listing.is_file() else []
        files = [
            f
            for n in names
            for f in (target / "JPEGImages" / f"{n}.jpg", target / "Annotations" / f"{n}.xml")
        ]
        if not files or not all(f.is_file() for f in files):
            raise FileExistsError(
                f"{target} is not a complete demonstration set (split '{part.split}' lacks files): remove "
                "the folder and start again."
            )
    return target


_LICENSE = """MIT License

Copyright (c) 2019, Ben Weinstein

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


def main() -> None:
    """Prepare the set in the folder given on the command line and print where it is."""
    parser = argparse.ArgumentParser(
        description="Prepare the demonstration set: trees on aerial photos, VOC layout."
    )
    parser.add_argument("folder", nargs="?", default=dataset_folder(), type=Path)
    target = prepare_demo_tiles(parser.parse_args().folder)
    print((target / "README.txt").read_text(encoding="utf-8"))
    print(f"Ready in {target}")


if __name__ == "__main__":
    main()
