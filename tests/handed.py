"""Small classifiers and detectors with the same backbones, and files that go from one to the other."""

from __future__ import annotations

import pytest
import torch

from det_distill.checkpoint import StudentCheckpointer
from tests.tiny import build, classifier_cfg, detector_cfg


def backbone(cfg, kind, name, feature):
    """Give a config a small backbone of a kind; `feature`: build up to there, all stages if it is a detector's FPN."""
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    upto = [feature]
    if kind in ("bottleneck", "basic"):
        family = "resnet"
        node = cfg.MODEL.RESNETS
        node.DEPTH, node.NORM, node.OUT_FEATURES = 50, "BN", upto
        node.STEM_OUT_CHANNELS, node.WIDTH_PER_GROUP, node.RES2_OUT_CHANNELS = 8, 4, 16
        if kind == "basic":  # detectron2 has this width alone
            node.DEPTH, node.RES2_OUT_CHANNELS = 18, 64
    elif kind == "vgg":
        family, cfg.MODEL.VGG.DEPTH, cfg.MODEL.VGG.NORM = "vgg", 11, "BN"
        cfg.MODEL.VGG.OUT_FEATURES = upto
    elif kind == "timm":
        family, cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.FREEZE_NORM = "timm", "test_resnet", False
        cfg.MODEL.TIMM.OUT_FEATURES = upto
    else:
        family, cfg.MODEL.CIFAR_RESNET.DEPTH = "cifar_resnet", 8
    cfg.MODEL.BACKBONE.NAME = f"build_{family}_{name}"


LAST = {"vgg": "pool5", "cifar": "res4"}


def classifier(kind, classes=2, **options):
    if kind == "timm":
        pytest.importorskip("timm")
    cfg = classifier_cfg(classes=classes, **options)
    backbone(cfg, kind, "backbone", LAST.get(kind, "res5"))
    cfg.INPUT.CLASSIFICATION.CROP = 32
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.0, 110.0, 100.0], [60.0, 60.0, 60.0]
    return cfg


def detector(kind, fpn=True, norm="FrozenBN"):
    cfg = detector_cfg()
    if fpn:
        backbone(cfg, kind, "fpn_backbone", "res5")
        features = {"vgg": ["conv3", "conv4", "conv5", "pool5"], "cifar": ["res2", "res3", "res4"]}
        cfg.MODEL.FPN.IN_FEATURES = features.get(kind, ["res2", "res3", "res4", "res5"])
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.VGG.OUT_FEATURES = features["vgg"]
        cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        if kind == "cifar":
            cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32]]
            cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p0", "p1", "p2"]
    else:
        last = {"vgg": "conv5"}.get(kind, "res4")
        backbone(cfg, kind, "backbone", last)
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32]]
        cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = [last]
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.VGG.NORM = norm
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.0, 110.0, 100.0], [60.0, 60.0, 60.0]
    return cfg


def load(model, file):
    StudentCheckpointer(model).resume_or_load(file, resume=False)
    return model


def stored(file):
    return torch.load(file)["model"]


def bottom_up(model):
    return getattr(model.backbone, "bottom_up", model.backbone)


def assert_arrived(model, file):
    """Every tensor of the model's backbone is that of the file, bit by bit."""
    state, mine = stored(file), bottom_up(model).state_dict()
    assert mine
    different = [k for k, v in mine.items() if not torch.equal(v, state[f"backbone.{k}"])]
    assert not different


def c4_cfg():
    cfg = detector("bottleneck", fpn=False)
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    return cfg


def save(tmp_path, cfg):
    StudentCheckpointer(build(cfg, seed=1), str(tmp_path)).save("classifier")
    return str(tmp_path / "classifier.pth")
