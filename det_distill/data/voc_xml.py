"""Annotation files in PASCAL VOC format, read with defusedxml: entities are never expanded."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from det_distill.data.boxes import Box


class AnnotationError(ValueError):
    """An annotation file that cannot be understood."""


@dataclass(frozen=True)
class VocObject:
    """One object of an annotation file.

    Attributes:
        name: the class.
        box: (x0, y0, x1, y1) in pixels, continuous: VOC's corners are the first and last pixel, counted from
            1, so x0 = xmin - 1 and x1 = xmax.  NaN where the file has no number.
        difficult: the VOC flag; absent means False.
    """

    name: str
    box: Box
    difficult: bool


@dataclass(frozen=True)
class VocAnnotation:
    """One annotation file: its objects, and the (width, height) it states, or None without a usable one."""

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_annotation(path: Path) -> VocAnnotation:
    """Read one annotation file.

    Args:
        path: the .xml file.

    Raises:
        AnnotationError: no readable XML, entity declarations (an XML bomb), or an object without a name.
    """
    root: Element = parse_annotation(path).getroot()
    return VocAnnotation(_size(root), tuple(_object(entry) for entry in root.findall("object")))


def parse_annotation(path: str | Path) -> Any:
    """Return the ``ElementTree`` of an XML file.

    Raises:
        AnnotationError: no readable XML, or entity declarations (an XML bomb, or another file that it would draw in).
    """
    try:
        return parse(str(path))
    except ParseError as error:
        raise AnnotationError(f"broken XML: {error}") from error
    except DefusedXmlException as error:
        raise AnnotationError(
            "entity declarations are not allowed, since they can grow without end or draw in other files "
            f"({type(error).__name__}): write out what they stand for"
        ) from error
    except (OSError, ValueError, LookupError) as error:
        raise AnnotationError(f"{type(error).__name__}: {error}") from error


def _object(entry: Element) -> VocObject:
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise AnnotationError("an <object> has no <name>")
    xmin, ymin, xmax, ymax = (_number(entry, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    return VocObject(name, (xmin - 1, ymin - 1, xmax, ymax), _number(entry, "difficult") == 1)


def _size(root: Element) -> tuple[int, int] | None:
    width, height = _number(root, "size/width"), _number(root, "size/height")
    return (int(width), int(height)) if 0 < width < math.inf and 0 < height < math.inf else None


def _number(element: Element, path: str) -> float:
    """The number at a path below an element; NaN if there is none."""
    try:
        return float(element.findtext(path) or "nan")
    except ValueError:
        return math.nan
