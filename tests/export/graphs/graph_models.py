"""Small students of every kind that has a graph, and requests to export them."""

from __future__ import annotations

from pathlib import Path

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from det_distill.export.formats import ExportRequest
from det_distill.export.plain_config import plain_config
from tests.tiny import CLASSES, build, classifier_cfg, detector_cfg


def fpn_cfg() -> CfgNode:
    cfg = detector_cfg()
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 60, 40
    return cfg


def c4_cfg() -> CfgNode:
    cfg = fpn_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32, 64]]
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["res4"]
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    return cfg


def retinanet_cfg() -> CfgNode:
    cfg = detector_cfg()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RETINANET.NUM_CLASSES = 2
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    cfg.MODEL.RETINANET.PRIOR_PROB = 0.5
    cfg.MODEL.RETINANET.TOPK_CANDIDATES_TEST = 40
    return cfg


CFGS = {"fpn": fpn_cfg, "c4": c4_cfg, "retinanet": retinanet_cfg, "classifier": classifier_cfg}


LAST = {"objectness_logits": 1.0, "anchor_deltas": 0.3, "cls_score": 1.0, "bbox_pred": 0.3, "classifier": 1.0}
"""Layers whose outputs get this standard deviation, so that scores and boxes differ from cell to cell."""


def spread(model: nn.Module) -> nn.Module:
    """The model in eval mode, with its last layers' weights scaled to `LAST` on a photo."""
    model.eval()
    seen = set()

    def scale(layer: nn.Module, _: object, out: Tensor, name: str) -> Tensor:
        if name in seen or out.numel() < 2:
            return out
        seen.add(name)
        factor = LAST[name.split(".")[-1]] / float(out.std())
        layer.weight.data *= factor
        return out * factor

    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: scale(m, i, out, name))
        for name, module in model.named_modules()
        if name.split(".")[-1] in LAST
    ]
    side = 8 if "classifier" in dict(model.named_children()) else 128
    with torch.no_grad():
        model([{"image": photo(side, side, seed=9)}])
    for hook in hooks:
        hook.remove()
    return model


def photo(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth noise, more like a photo than white noise is."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, 3, height // 8 + 1, width // 8 + 1), generator=g).float()
    return nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0].to(torch.uint8)


def request(kind: str) -> ExportRequest:
    cfg = CFGS[kind]()
    model = spread(build(cfg))
    sizes = [(8, 8), (8, 8)] if kind == "classifier" else [(96, 131), (150, 97), (128, 128)]
    images = [photo(*size, seed=i) for i, size in enumerate(sizes)]
    return ExportRequest(cfg, plain_config(cfg), model, images, lambda n: images[:n], CLASSES)


def write(writer: object, kind: str, folder: Path) -> tuple[ExportRequest, list]:
    asked = request(kind)
    return asked, writer(asked, folder)  # type: ignore[operator]
