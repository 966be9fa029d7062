"""What the trainer asks before it starts: are the datasets of the config there, and do they fit the model?"""

import difflib
import logging
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from det_distill.data.catalog import LoadedOnce, dataset_folder
from det_distill.data.problems import SHOWN, DatasetError

logger = logging.getLogger(__name__)


def check_datasets(
    cfg: CfgNode,
    num_classes: int | None,
    *,
    classes_key: str = "MODEL.ROI_HEADS.NUM_CLASSES",
    other_test_classes: bool = False,
) -> None:
    """Load every dataset of DATASETS.TRAIN and DATASETS.TEST once and compare it with the model.

    Datasets of `register_voc`, `register_coco` and `register_torchvision` are checked completely by their loaders,
    those of `register_images` as far as their folders; for others, the built-in ones among them, every file must exist.

    Args:
        cfg: a config with DATASETS.TRAIN and DATASETS.TEST, its own datasets registered.
        num_classes: the number of foreground classes that the model is built for; None: it has none.
        classes_key: the config key to name in the message when the numbers differ.
        other_test_classes: test sets may have classes of their own, as identities that retrieval has not seen.

    Raises:
        DatasetError: a name is not registered (lists the nearest names), files are missing, a dataset is
            empty or cannot be used, an image has a label beyond the classes, the class count is not the model's, or
            class lists differ.
    """
    names = dict.fromkeys(_names(cfg))
    classes = {name: _checked_classes(name) for name in names}
    if other_test_classes:
        classes = {name: classes[name] for name in cfg.DATASETS.TRAIN}
    for name, found in classes.items():
        if num_classes is not None and len(found) != num_classes:
            raise DatasetError(
                f"The dataset '{name}' has {len(found)} classes {_short(found)} but the model is built for "
                f"{num_classes}. Set {classes_key} to {len(found)}."
            )
    if len(set(map(tuple, classes.values()))) > 1:
        lines = [f"  {name}: {_short(found)}" for name, found in classes.items()]
        raise DatasetError(
            "\n".join(["The datasets of the config do not have the same classes in the same order.", *lines])
        )


def _names(cfg: CfgNode) -> list[str]:
    for key in ("TRAIN", "TEST"):
        for name in cfg.DATASETS[key]:
            if not isinstance(name, str):
                raise DatasetError(
                    f"DATASETS.{key} holds {name!r}, which is no name of a dataset: write a list of names, "
                    'as in ["my_test"]'
                )
    return [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]


def _checked_classes(name: str) -> list[str]:
    """Load one dataset and return its class names."""
    if name not in DatasetCatalog:
        near = difflib.get_close_matches(name, list(DatasetCatalog), n=5, cutoff=0.5)
        raise DatasetError(
            f"The dataset '{name}' is not registered. Nearest names: {', '.join(near) or 'none'}. "
            "Define it under DATASETS.VOC, DATASETS.COCO, DATASETS.IMAGES or DATASETS.TORCHVISION."
        )
    dicts = _load(name)
    if not dicts:
        raise DatasetError(f"The dataset '{name}' has no images.")
    boxes = sum(len(record.get("annotations", ())) for record in dicts)
    labelled = "label" in dicts[0]
    logger.info(f"Dataset '{name}': {len(dicts)} images{'' if labelled else f', {boxes} boxes'}.")
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not classes:
        raise DatasetError(f"The dataset '{name}' has no class names (thing_classes) in its metadata.")
    wrong = [r for r in dicts if "label" in r and not 0 <= r["label"] < len(classes)]
    if wrong:
        image = wrong[0].get("file_name") or wrong[0].get("image_id")
        raise DatasetError(
            f"The dataset '{name}' has {len(classes)} classes, but {len(wrong)} images have a label that is not 0 to "
            f"{len(classes) - 1}: {wrong[0]['label']} of {image}, for example."
        )
    return list(classes)


def _load(name: str) -> list[dict[str, Any]]:
    if isinstance(DatasetCatalog[name], LoadedOnce):
        return DatasetCatalog.get(name)
    try:
        dicts = DatasetCatalog.get(name)
    except OSError as error:
        raise DatasetError(f"The dataset '{name}' cannot be read: {error}.\n{_advice(name)}") from error
    files = [record["file_name"] for record in dicts if "file_name" in record]
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise DatasetError(
            f"The dataset '{name}' lists {len(missing)} image files that do not exist: "
            f"{', '.join(missing[:SHOWN])}{' ...' if len(missing) > SHOWN else ''}.\n{_advice(name)}"
        )
    return dicts


def _advice(name: str) -> str:
    """Where a dataset that other code registered expects its files."""
    metadata = MetadataCatalog.get(name)
    places = [metadata.get(key) for key in ("dirname", "json_file", "image_root")]
    expected = ", ".join(str(Path(place).absolute()) for place in places if place)
    return (
        f"It was registered outside this config; its files are expected at {expected or 'an unknown place'}. "
        "Built-in datasets live in the folder named by the environment variable DETECTRON2_DATASETS when "
        f"the program starts (now {dataset_folder().absolute()})."
    )


def _short(classes: list[str]) -> str:
    return f"({', '.join(classes[:SHOWN])}{', ...' if len(classes) > SHOWN else ''})"
