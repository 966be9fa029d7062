"""The config keys of classification."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..modeling import add_cifar_resnet_config

__all__ = ["add_classification_config"]


def add_classification_config(cfg: CfgNode) -> None:
    """Add the keys of `ImageClassifier`, its data and its augmentation, with their defaults, in place."""
    # FEATURE: the backbone's feature that is pooled ("": its last); EMBEDDING_DIM: a linear layer of that many
    # features behind the pooling, part of the deployed network (0: none)
    cfg.MODEL.CLASSIFIER = CfgNode({"NUM_CLASSES": 10, "FEATURE": "", "EMBEDDING_DIM": 0})
    cfg.INPUT.CLASSIFICATION = CfgNode()
    # training: pad every side, then a random crop; test: the middle. 0: images are taken whole
    cfg.INPUT.CLASSIFICATION.CROP = 32
    cfg.INPUT.CLASSIFICATION.PAD = 4
    # "zero" (black) or "reflect"
    cfg.INPUT.CLASSIFICATION.PAD_MODE = "zero"
    # training: mirror half of the images left to right
    cfg.INPUT.CLASSIFICATION.FLIP = True
    # before all of that, resize the shorter side to this many pixels; 0: as it is
    cfg.INPUT.CLASSIFICATION.RESIZE = 0
    # keep decoded (and resized) training images in memory
    cfg.INPUT.CLASSIFICATION.CACHE = False
    # name: {ROOT: a folder with a folder of images per class, CLASSES: [] (those that are there, sorted),
    # QUERIES: another such folder, whose images search those of ROOT in retrieval ("": every one searches all others)}
    cfg.DATASETS.IMAGES = CfgNode(new_allowed=True)
    add_cifar_resnet_config(cfg)
