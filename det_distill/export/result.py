"""What an export wrote, for the person who asked for it and for what tells them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .formats import Written
from .measured import Measurement

__all__ = ["StudentExport"]


@dataclass(frozen=True)
class StudentExport:
    """What `export_student` wrote.

    Attributes:
        folder: holds the files.
        sizes: file name -> bytes.
        differences: file name -> largest absolute difference between the outputs of the model and of a new
            one that was loaded from the file.
        needs_det_distill: the student has parts that stock detectron2 lacks.
        architecture: its ``MODEL.META_ARCHITECTURE``.
        pixels: key of a config -> value, as the network wants its images: ``INPUT.FORMAT``, ``MODEL.PIXEL_MEAN``,
            ``MODEL.PIXEL_STD``.
        written: the files of the formats, with what they are and which difference is accepted.
        images: what outputs were compared on, for a person.
        left_out: format -> why ``all`` went on without it.
        measurement: what the student and its files find on test data, if that was measured.
    """

    folder: Path
    sizes: dict[str, int]
    differences: dict[str, float]
    needs_det_distill: bool
    architecture: str
    pixels: dict[str, Any]
    written: tuple[Written, ...] = ()
    images: str = ""
    left_out: dict[str, str] = field(default_factory=dict)
    measurement: Measurement | None = None
