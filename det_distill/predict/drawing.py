"""Boxes with labels, and a classifier's best classes, drawn so that a person can read them on any picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

__all__ = ["COLOURS", "colour_of", "draw_classes", "draw_detections", "lacking"]

COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""A class has always the same of them, by its number.

They are those of Okabe and Ito (*Color Universal Design*, 2008), which people with any colour vision tell apart,
without black. The eighth class begins again: its labels tell it from the first.
"""

_READABLE = 320
"""A picture whose shorter side has fewer pixels is enlarged."""
_LARGEST = 1600
"""No picture is enlarged beyond that."""

_Box = tuple[float, float, float, float]


def colour_of(class_id: int) -> tuple[int, int, int]:
    """Return the colour of a class, RGB."""
    red, green, blue = ImageColor.getrgb(COLOURS[class_id % len(COLOURS)])[:3]
    return red, green, blue


def lacking(names: Sequence[str]) -> str:
    """Return the letters of some names that cannot be drawn, each once, in their order."""
    text = "".join(names)
    missing = _missing(text, _font(12))
    return "".join(letter for letter in dict.fromkeys(text) if letter in missing)


def draw_detections(image: NDArray[np.uint8], detections: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Return the image with a box and a label, class and score, for each detection.

    Lines and letters grow with the picture; a small one is first enlarged by a whole factor, so that labels can be
    read. Labels stay inside the picture and keep off each other where there is room, the best detections first.

    Args:
        image: (H, W, 3), RGB.
        detections: as `record` returns them: "class", "class_id", "score" and "box"; best first.
    """
    picture, factor = _enlarged(image)
    draw, line = ImageDraw.Draw(picture), _line(picture)
    boxes = [tuple(x * factor for x in d["box"]) for d in detections]
    for box, detection in reversed(list(zip(boxes, detections, strict=True))):
        _frame(draw, box, colour_of(detection["class_id"]), line, picture.size)
    font, placed = _font(_letters(picture)), list[_Box]()
    for box, detection in zip(boxes, detections, strict=True):
        text = _fitting(f"{_name(detection, font)} {detection['score']:.2f}", font, picture.width - 4)
        placed.append(_place(box, _size(text, font), line, picture.size, placed))
        _label(draw, placed[-1], text, font, colour_of(detection["class_id"]))
    return picture


def draw_classes(image: NDArray[np.uint8], classes: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Return the image above a caption: a classifier's best classes, each with a bar and its probability.

    Args:
        image: (H, W, 3), RGB; a small one is enlarged.
        classes: as `record` returns them: "class", "class_id" and "probability"; best first.
    """
    picture, _ = _enlarged(image)
    font = _font(_letters(picture))
    row = _size("Ag", font)[1] + 4
    captioned = Image.new("RGB", (picture.width, picture.height + row * len(classes) + 4), "white")
    captioned.paste(picture)
    draw = ImageDraw.Draw(captioned)
    for number, entry in enumerate(classes):
        top, share = picture.height + 2 + number * row, f"{100 * entry['probability']:.1f} %"
        bar = round((picture.width - 4) * entry["probability"])
        if bar:
            draw.rectangle((2, top + 1, 1 + bar, top + row - 2), fill="#56b4e9")
        room = picture.width - _size(share, font)[0] - 8
        draw.text((6, top + row // 2), _fitting(_name(entry, font), font, room), "black", font, anchor="lm")
        draw.text((picture.width - 6, top + row // 2), share, "black", font, anchor="rm")
    return captioned


def _enlarged(image: NDArray[np.uint8]) -> tuple[Image.Image, int]:
    picture = Image.fromarray(image)
    factor = max(1, min(math.ceil(_READABLE / min(picture.size)), _LARGEST // max(picture.size)))
    if factor == 1:
        return picture, 1
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.BICUBIC), factor


def _line(picture: Image.Image) -> int:
    side = min(picture.size)
    return max(2 if side >= _READABLE else 1, round(side / 300))


def _letters(picture: Image.Image) -> int:
    """Height of letters, for a picture that is looked at as a whole."""
    return max(12, round(min(picture.size) / 38))


@lru_cache(maxsize=8)
def _font(size: int) -> Any:
    """DejaVu Sans, which has most alphabets and comes with matplotlib; else the font that comes with Pillow."""
    try:
        import matplotlib

        return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")), size)
    except (ImportError, OSError):
        return ImageFont.load_default(size)


def _name(entry: Mapping[str, Any], font: Any) -> str:
    """The class, with a ? for each letter that the font lacks; its number if it lacks all of them."""
    name = str(entry["class"])
    missing = _missing(name, font)
    if missing and not set(name.replace(" ", "")) - missing:
        return f"class {entry['class_id']}"
    return "".join("?" if letter in missing else letter for letter in name)


def _missing(text: str, font: Any) -> set[str]:
    unknown = bytes(font.getmask("\uffff"))
    return {letter for letter in set(text) if bytes(font.getmask(letter)) == unknown}


def _size(text: str, font: Any) -> tuple[int, int]:
    """Width and height of a label: every label is as high, whatever its letters."""
    ascent, descent = font.getmetrics()
    return math.ceil(font.getlength(text)) + 4, ascent + descent


def _fitting(text: str, font: Any, room: int) -> str:
    """The text, or as much of it as has room."""
    if _size(text, font)[0] <= room:
        return text
    while text and _size(f"{text}…", font)[0] > room:
        text = text[:-1]
    return f"{text}…" if text else ""


def _frame(draw: Any, box: Any, colour: tuple[int, int, int], line: int, size: tuple[int, int]) -> None:
    """A box in its colour between two thin dark lines, which stand out from any picture; all of it in the picture."""
    x0, y0 = (min(max(round(v), 0), most - 1) for v, most in zip(box[:2], size, strict=True))
    x1, y1 = (
        min(max(round(v) - 1, least), most - 1)
        for v, least, most in zip(box[2:], (x0, y0), size, strict=True)
    )
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0), width=1)
    if min(x1 - x0, y1 - y0) > 2 * line + 2:
        draw.rectangle((x0 + line, y0 + line, x1 - line, y1 - line), outline=(0, 0, 0), width=1)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=line)


def _place(
    box: Any, label: tuple[int, int], line: int, size: tuple[int, int], placed: Sequence[_Box]
) -> _Box:
    """Where a label stands: above its box, or inside it, or below, where it hides least of other labels."""
    width, height = label
    x0, y0, x1, y1 = box
    tops = (y0 - height, y0 + line, y1 - height - line, y1)
    best, least = (0.0, 0.0, 0.0, 0.0), math.inf
    for rank, (top, left) in enumerate((top, left) for top in tops for left in (x0, x1 - width)):
        candidate = _inside(left, top, label, size)
        hidden = sum(_common(candidate, other) for other in placed) / (width * height)
        moved = (abs(candidate[0] - left) + abs(candidate[1] - top)) / height
        cost = hidden + moved + 0.02 * rank
        if cost < least:
            best, least = candidate, cost
    return best


def _inside(left: float, top: float, label: tuple[int, int], size: tuple[int, int]) -> _Box:
    """The label's box, moved into the picture."""
    x = max(0, min(round(left), size[0] - label[0]))
    y = max(0, min(round(top), size[1] - label[1]))
    return x, y, x + label[0], y + label[1]


def _common(a: _Box, b: _Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _label(draw: Any, place: _Box, text: str, font: Any, colour: tuple[int, int, int]) -> None:
    if not text:
        return
    draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
    draw.text((place[0] + 2, place[1]), text, _ink(colour), font)


def _ink(colour: tuple[int, int, int]) -> str:
    """Black or white, whichever has more contrast by WCAG's relative luminance."""
    parts = [c / 255 for c in colour]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"
