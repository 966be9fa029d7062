"""Datasets in PASCAL VOC and COCO format, folders of images, torchvision's sets: registered and checked."""

from det_distill.data.checks import check_datasets
from det_distill.data.coco import register_coco
from det_distill.data.from_config import register_from_config
from det_distill.data.image_folder import register_images
from det_distill.data.problems import DatasetError, DatasetProblem, DatasetReport
from det_distill.data.torchvision_sets import register_torchvision
from det_distill.data.voc import discover_classes, register_voc

__all__ = [
    "DatasetError",
    "DatasetProblem",
    "DatasetReport",
    "check_datasets",
    "discover_classes",
    "register_coco",
    "register_from_config",
    "register_images",
    "register_torchvision",
    "register_voc",
]
