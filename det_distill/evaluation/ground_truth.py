"""The dicts that a registered dataset is evaluated against."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from det_distill.data.catalog import LoadedOnce
from det_distill.data.voc import VocFolder, load_voc


def evaluation_dicts(name: str) -> list[dict[str, Any]]:
    """A dataset's dicts with everything that evaluation needs.

    * VOC folders: objects marked difficult are there and flagged, whatever training does with them; for the
      built-in voc_* names, whose dicts lack the flag, the XML files are read again, once per process.
    * COCO files: each object has the area of its annotation, which COCO rules sort it by.  The built-in names
      are read again for it.
    * other datasets: their dicts as they are.

    Args:
        name: a dataset in DatasetCatalog.

    Raises:
        DatasetError: a file of a VOC folder cannot be used.
        KeyError: the name is not registered.
    """
    registered = DatasetCatalog[name]
    metadata = MetadataCatalog.get(name)
    if isinstance(registered, LoadedOnce):
        source = registered.source
        if isinstance(source, VocFolder) and source.difficult == "skip":
            return _with_difficult(source.root, source.split, source.classes)
    elif metadata.get("evaluator_type") == "pascal_voc":
        return _with_difficult(Path(metadata.dirname), metadata.split, tuple(metadata.thing_classes))
    elif metadata.get("evaluator_type") == "coco" and metadata.get("image_root"):
        return load_coco_json(metadata.json_file, metadata.image_root, name, extra_annotation_keys=["area"])
    return DatasetCatalog.get(name)


@lru_cache(maxsize=4)
def _with_difficult(root: Path, split: str, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    return load_voc(root, split, classes)
