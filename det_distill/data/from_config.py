"""Datasets named in a config: `DATASETS.VOC`, `.COCO`, `.IMAGES` and `.TORCHVISION`, mappings from name to keys."""

from collections.abc import Callable, Mapping
from typing import Any

from detectron2.config import CfgNode

from det_distill.data.coco import register_coco
from det_distill.data.image_folder import register_images
from det_distill.data.imagenet import IMAGENET_1K
from det_distill.data.torchvision_sets import register_torchvision
from det_distill.data.voc import register_voc

_VOC_KEYS = {"ROOT": "root", "SPLIT": "split", "CLASSES": "classes", "DIFFICULT": "difficult"}
_COCO_KEYS = {"JSON": "json", "IMAGES": "images"}
_IMAGES_KEYS = {"ROOT": "root", "CLASSES": "classes", "QUERIES": "queries"}
_TORCHVISION_KEYS = {"DATASET": "dataset", "ROOT": "root", "SPLIT": "split"}


def register_from_config(cfg: CfgNode) -> None:
    """Register the datasets of a config.

        DATASETS:
          VOC:  {cells_train: {ROOT: "datasets/BCCD", SPLIT: "trainval", CLASSES: [], DIFFICULT: "keep"}}
          COCO: {my_train: {JSON: "my/train.json", IMAGES: "my/train"}}
          IMAGES: {cifar10_train: {ROOT: "cifar10/train", CLASSES: []}, shoes: {ROOT: "gallery", QUERIES: "queries"}}
          TORCHVISION: {digits: {DATASET: "SVHN", ROOT: "svhn", SPLIT: "train[6000:]+extra"}}

    Calling it again with the same entries changes nothing.

    Args:
        cfg: a config with DATASETS.VOC, .COCO, .IMAGES and .TORCHVISION (each may be absent).

    Raises:
        ValueError: an unknown, missing or mistyped key, or a name that another dataset has; see
            `register_voc`, `register_coco`, `register_images` and `register_torchvision` for the keys.
    """
    for name, entry in cfg.DATASETS.get("VOC", {}).items():
        _register(f"DATASETS.VOC.{name}", name, entry, register_voc, _VOC_KEYS, required=("ROOT", "SPLIT"))
    for name, entry in cfg.DATASETS.get("COCO", {}).items():
        _register(
            f"DATASETS.COCO.{name}", name, entry, register_coco, _COCO_KEYS, required=("JSON", "IMAGES")
        )
    for name, entry in cfg.DATASETS.get("IMAGES", {}).items():
        _register(f"DATASETS.IMAGES.{name}", name, entry, register_images, _IMAGES_KEYS, required=("ROOT",))
    for name, entry in cfg.DATASETS.get("TORCHVISION", {}).items():
        _register(
            f"DATASETS.TORCHVISION.{name}",
            name,
            {"ROOT": "", **entry} if isinstance(entry, Mapping) else entry,
            register_torchvision,
            _TORCHVISION_KEYS,
            required=("DATASET", "SPLIT"),
        )


def _register(
    where: str,
    name: str,
    entry: Any,
    register: Callable[..., object],
    keys: Mapping[str, str],
    *,
    required: tuple[str, ...],
) -> None:
    valid = ", ".join(keys)
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where} must be a mapping with the keys {valid}, not {entry!r}.")
    if unknown := sorted(set(entry) - set(keys)):
        raise ValueError(f"{where} has the unknown keys {unknown}. The valid keys are {valid}.")
    if missing := [key for key in required if not entry.get(key)]:
        raise ValueError(f"{where} needs {' and '.join(missing)}. The valid keys are {valid}.")
    for key, value in entry.items():
        a_known_list = value == IMAGENET_1K and where.startswith("DATASETS.IMAGES.")
        _check_type(f"{where}.{key}", value, is_list=key == "CLASSES" and not a_known_list)
    register(name, **{keys[key]: value for key, value in entry.items()})


def _check_type(where: str, value: Any, *, is_list: bool) -> None:
    if is_list and not (isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)):
        raise ValueError(f"{where} must be a list of class names, not {value!r}. Quote names such as 'no'.")
    if not is_list and not isinstance(value, str):
        raise ValueError(f"{where} must be a text, not {value!r}.")
