"""ImageNet as folders of images: the order of its 1000 classes, and what is usually wrong with its folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from det_distill.data.problems import DatasetError

__all__ = ["IMAGENET_1K", "imagenet_advice", "imagenet_classes"]

IMAGENET_1K = "imagenet-1k"
"""What CLASSES may say instead of a list: the 1000 synsets of ILSVRC 2012, in the order of their WordNet ids."""

_SORT = (
    "`torchvision.datasets.ImageNet(ROOT, '{split}')` unpacks ILSVRC2012_img_{split}.tar, which must lie in ROOT "
    "beside ILSVRC2012_devkit_t12.tar.gz, into ROOT/{split}, one folder per class."
)


def imagenet_classes() -> dict[str, str]:
    """WordNet id -> readable name of the 1000 classes, in the order that pretrained networks have.

    The names ("tench, Tinca tinca") are not unique: there are two cranes.  Both come from timm's data files.

    Raises:
        DatasetError: the package timm is missing.
    """
    try:
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise DatasetError(
            f"CLASSES '{IMAGENET_1K}' takes the order of the classes from the package timm: "
            "`pip install det_distill[timm]`."
        ) from error
    info = ImageNetInfo(IMAGENET_1K)
    return dict(zip(info.label_names(), info.label_descriptions(), strict=True))


def imagenet_advice(root: Path, classes: Sequence[str], present: Sequence[str]) -> str:
    """What to do about a folder of ImageNet that is not sorted into classes; "" if that is not what is wrong with it.

    Args:
        root: the folder.
        classes: the classes that are asked for.
        present: the folders in it.
    """
    if root.is_dir() and next(root.glob("ILSVRC2012_val_*"), None):
        return f"The validation images of ImageNet all lie in {root} itself. {_SORT.format(split='val')}"
    if root.is_dir() and next(root.glob("n[0-9]*.tar"), None):
        return f"The classes of ImageNet in {root} are still packed. {_SORT.format(split='train')}"
    if len(classes) == 1000 and len(set(classes) - set(present)) and classes[0] == "n01440764":
        return (
            f"CLASSES '{IMAGENET_1K}' needs a folder for each of the 1000 synsets; to use some of them, list those in "
            f"CLASSES. {_SORT.format(split='train')}"
        )
    return ""
