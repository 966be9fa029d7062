"""Rule 1: any detectron2 meta-architecture can be wrapped; unequal strides' rounding is met on the way."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from det_distill import Distiller, Pair, Pairs
from det_distill.adapters import Conv1x1, Linear, Paraphraser, Translator
from det_distill.losses import L2, FactorTransfer
from tests.tiny import batch, build, detector_cfg


def losses(student, teacher, pairs, data=None):
    model = Distiller(student=student, pairs=Pairs(**pairs), teachers={"t": teacher}).train()
    with EventStorage():
        return model(data or batch())


def retinanet(width=4):
    cfg = detector_cfg(width=width)
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RETINANET.NUM_CLASSES = 2
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    return build(cfg, width)


def c4(width=4, dims=None):
    cfg = detector_cfg(width=width)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32, 64]]
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    return build(cfg, width)


def vgg():
    cfg = detector_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_vgg_backbone"
    cfg.MODEL.VGG.DEPTH = 11
    cfg.MODEL.VGG.OUT_FEATURES = ["conv5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32, 64]]
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["conv5"]
    return build(cfg)


def test_retinanet_on_its_fpn_and_its_class_logits():
    pairs = {a: Pair(at, at, L2()) for a, at in (("p3", "backbone:p3"), ("logits", "head:0:1"))}
    got = losses(retinanet(), retinanet(8), pairs)
    assert {"loss_cls", "loss_box_reg", "distill_p3", "distill_logits"} == set(got)
    assert all(v.isfinite() for v in got.values())


def test_a_retinanet_student_of_a_faster_rcnn_teacher():
    assert losses(retinanet(), build(detector_cfg(), 1), {"p3": Pair("backbone:p3", "backbone:p3", L2())})


def test_a_c4_detector_on_its_shared_map_and_its_roi_features():
    pairs = {
        "res4": Pair("backbone:res4", "backbone:res4", L2(), student_adapter=Conv1x1(64, 128)),
        "roi": Pair(
            "roi_heads.box_predictor@input",
            "roi_heads.box_predictor@input",
            L2(),
            student_adapter=Linear(128, 256),
        ),
    }
    got = losses(c4(), c4(8), pairs)
    assert got["distill_res4"].isfinite() and got["distill_roi"].isfinite()


@pytest.mark.parametrize("size", [(64, 96), (72, 90), (75, 101)])
def test_vgg_floors_where_resnet_ceils_and_factor_transfer_meets_both(size):
    pair = Pair(
        "backbone:conv5",
        "backbone:res4",
        FactorTransfer(),
        student_adapter=Translator(512, 32),
        teacher_adapter=Paraphraser(64, 0.5).freeze(),
        stride=16,
    )
    student, teacher = vgg(), c4()
    got = losses(student, teacher, {"ft": pair}, batch((size, (64, 64))))
    assert 0 < got["distill_ft"] < 1
    with torch.no_grad():
        x = student.preprocess_image(batch((size,))).tensor
        cells = student.backbone(x)["conv5"].shape[-2:], teacher.backbone(x)["res4"].shape[-2:]
    assert cells == (tuple(s // 16 for s in size), tuple(-(-s // 16) for s in size))


def test_images_without_any_box_train():
    data = batch()
    for sample in data:
        sample["instances"] = sample["instances"][:0]
    at = "roi_heads.box_head"
    got = losses(build(detector_cfg()), build(detector_cfg(), 1), {"fm": Pair(at, at, L2())}, data)
    assert got["distill_fm"].isfinite()


def test_bfloat16_autocast_gives_finite_losses_and_gradients():
    student = build(detector_cfg())
    pairs = {n: Pair(a, a, L2()) for n, a in (("p3", "backbone:p3"), ("roi", "roi_heads.box_head"))}
    with torch.autocast("cpu", torch.bfloat16):
        got = losses(student, build(detector_cfg(), 1), pairs)
    (got["distill_p3"] + got["distill_roi"]).backward()
    assert all(p.grad.isfinite().all() for p in student.parameters() if p.grad is not None)
    assert got["distill_p3"].dtype == torch.float32
