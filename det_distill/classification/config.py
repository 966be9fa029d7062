"""The config keys of classification."""

from __future__ import annotations

from detectron2.config import CfgNode

__all__ = ["add_classification_config"]


def add_classification_config(cfg: CfgNode) -> None:
    """Add the keys of `ImageClassifier`, its data and its augmentation, with their defaults, in place."""
    # FEATURE: the backbone's feature that is pooled ("": its last); EMBEDDING_DIM: a linear layer of that many
    # features behind the pooling, part of the deployed network (0: none); LABEL_SMOOTHING: the share of a target that
    # is spread evenly over all classes
    cfg.MODEL.CLASSIFIER = CfgNode(
        {"NUM_CLASSES": 10, "FEATURE": "", "EMBEDDING_DIM": 0, "LABEL_SMOOTHING": 0.0}
    )
    cfg.INPUT.CLASSIFICATION = CfgNode()
    # "workers": images are read and augmented one by one, by DATALOADER.NUM_WORKERS processes; "memory": the whole set
    # lies on MODEL.DEVICE and is augmented there, a batch at once
    cfg.INPUT.CLASSIFICATION.LOADER = "workers"
    # keep decoded (and resized) training images in memory ("workers")
    cfg.INPUT.CLASSIFICATION.CACHE = False
    # before all else, resize the shorter side to this many pixels, in training ("crop") and in tests; 0: as it is
    cfg.INPUT.CLASSIFICATION.RESIZE = 0
    # training: "crop" (pad every side, then a random crop) or "resized_crop" (a random part of the image, resized)
    cfg.INPUT.CLASSIFICATION.AUGMENTATION = "crop"
    # pixels of a side that the network sees; a test takes the middle. 0: images are taken whole
    cfg.INPUT.CLASSIFICATION.CROP = 32
    cfg.INPUT.CLASSIFICATION.PAD = 4
    # "zero" (black) or "reflect"
    cfg.INPUT.CLASSIFICATION.PAD_MODE = "zero"
    # "resized_crop": the least and the greatest share of the image's area
    cfg.INPUT.CLASSIFICATION.SCALE = [0.08, 1.0]
    # training: mirror half of the images left to right
    cfg.INPUT.CLASSIFICATION.FLIP = True
    # training: brightness, contrast and saturation change by up to this share; 0: not at all
    cfg.INPUT.CLASSIFICATION.COLOR_JITTER = 0.0
    # training: RandAugment, so many operations in a row of this magnitude (of 30); 0 operations: none
    cfg.INPUT.CLASSIFICATION.RAND_AUGMENT = CfgNode({"OPERATIONS": 0, "MAGNITUDE": 9})
    # training: the probability that a rectangle of an image is blanked
    cfg.INPUT.CLASSIFICATION.ERASE = 0.0
    # training: the alpha of mixup and of cutmix (0: neither); one of those that are on is drawn for each batch
    cfg.INPUT.CLASSIFICATION.MIXUP = 0.0
    cfg.INPUT.CLASSIFICATION.CUTMIX = 0.0
    # name: {ROOT: a folder with a folder of images per class, CLASSES: [] (those that are there, sorted),
    # QUERIES: another such folder, whose images search those of ROOT in retrieval ("": every one searches all others)}
    cfg.DATASETS.IMAGES = CfgNode(new_allowed=True)
    # name: {DATASET: one of torchvision's ("CIFAR10"), ROOT: the folder of its files, SPLIT: "train" or "test"}
    cfg.DATASETS.TORCHVISION = CfgNode(new_allowed=True)
