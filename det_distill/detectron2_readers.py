"""What detectron2 reads on a config's behalf with readers that a file can abuse, read safely instead.

Two of its modules read files that a config names, and have no door of their own: ``detectron2.data.build`` unpickles
proposals (``DATASETS.PROPOSAL_FILES_TRAIN``), ``detectron2.data.datasets.pascal_voc`` reads the annotations of its
built-in data sets (``voc_2007_trainval``, ...) and expands XML entities. So the readers that they import are replaced
in these two modules, for the whole process. Files without anything that is refused are read as before. Images it has
Pillow read, which from then on reads no PostScript.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import IO, Any

from detectron2.data import build
from detectron2.data.datasets import pascal_voc

from .data.pillow_formats import refuse_postscript
from .data.voc_xml import AnnotationError, parse_annotation
from .files import load_zoo_pickle

__all__ = ["make_readers_safe"]


def make_readers_safe() -> None:
    """Replace the two readers, and see `refuse_postscript`; does nothing the second time."""
    refuse_postscript()
    build.pickle = SimpleNamespace(load=_load)  # type: ignore[attr-defined]
    pascal_voc.ET = SimpleNamespace(parse=_parse)


def _load(file: IO[bytes], **options: Any) -> Any:
    return load_zoo_pickle(file.name)


def _parse(file: IO[str]) -> Any:
    try:
        return parse_annotation(file.name)
    except AnnotationError as error:
        raise AnnotationError(f"{file.name}: {error}") from error
