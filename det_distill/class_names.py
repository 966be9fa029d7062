"""What the classes of a config's model are called, for files and pictures that leave the run."""

from __future__ import annotations

import logging

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from .data.problems import DatasetError
from .tasks import task_of

__all__ = ["class_names"]

logger = logging.getLogger(__name__)


def class_names(cfg: CfgNode) -> tuple[str, ...]:
    """Return the names of the classes that the model of `cfg` tells apart, by index.

    They are those of the first set of ``DATASETS.TRAIN``, then of ``DATASETS.TEST``, that is registered and has as many
    classes as the model. If there is none, or its files are not there: "class 0", "class 1", ...; without any if the
    number of classes is not known. A set whose names are not in the config is read for them.
    """
    number = task_of(cfg).classes(cfg) or 0
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        found = _classes_of(name)
        if found and len(found) == number:
            return found
    return tuple(f"class {i}" for i in range(number))


def _classes_of(name: str) -> tuple[str, ...]:
    """The names of a set's classes; none if it is not registered or cannot be read."""
    if name not in DatasetCatalog:
        return ()
    metadata = MetadataCatalog.get(name)
    if not metadata.get("thing_classes"):
        try:
            DatasetCatalog.get(name)
        except (DatasetError, OSError) as error:
            logger.warning("The names of the classes of %s are not known: %s", name, error)
    return tuple(str(c) for c in metadata.get("thing_classes") or ())
