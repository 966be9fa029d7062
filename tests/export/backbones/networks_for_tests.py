"""Detectors and classifiers whose backbones torchvision or timm have, with statistics as after a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor, nn

from det_distill.config import build_student
from det_distill.data import demo
from det_distill.export.formats import ExportRequest
from tests.tiny import classifier_cfg, detector_cfg

R18 = {"RESNETS": {"DEPTH": 18, "STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 64, "WIDTH_PER_GROUP": 64}}
R50 = {
    "RESNETS": {
        "STEM_OUT_CHANNELS": 64,
        "RES2_OUT_CHANNELS": 256,
        "WIDTH_PER_GROUP": 64,
        "STRIDE_IN_1X1": False,
    }
}
C4 = {
    "BACKBONE": {"NAME": "build_resnet_backbone"},
    "RPN": {"IN_FEATURES": ["res4"]},
    "ROI_HEADS": {"NAME": "Res5ROIHeads", "IN_FEATURES": ["res4"]},
    "ANCHOR_GENERATOR": {"SIZES": [[8, 16]]},
}
VGG11 = {
    "BACKBONE": {"NAME": "build_vgg_fpn_backbone"},
    "VGG": {"DEPTH": 11, "NORM": "BN"},
    "FPN": {"IN_FEATURES": ["conv3", "conv4", "conv5", "pool5"]},
}
TIMM = {"BACKBONE": {"NAME": "build_timm_fpn_backbone"}, "TIMM": {"NAME": "test_efficientnet"}}
MEAN_BGR, STD_BGR = [101.0, 115.5, 124.0], [55.0, 57.0, 60.0]

with_photos = pytest.mark.skipif(
    not demo.find_spec("deepforest"), reason="the package deepforest is not installed"
)


def photo() -> np.ndarray:
    """A piece of a real photo of trees, RGB, (H, W, 3), of an odd size."""
    file = demo._photo_folder() / f"{demo.PARTS[0].photo}.png"
    return np.asarray(Image.open(file).convert("RGB"))[200:361, 300:515].copy()


def in_format(pixels: np.ndarray, form: str) -> Tensor:
    """(C, H, W) in the order of a detectron2 config."""
    return torch.from_numpy(np.ascontiguousarray(pixels[..., ::-1] if form == "BGR" else pixels)).permute(
        2, 0, 1
    )


def config(*changes: dict[str, Any], classifier: bool = False, form: str = "BGR") -> CfgNode:
    """A detector or classifier of a ResNet whose pixels are BGR, with means and deviations that differ by channel."""
    cfg = classifier_cfg() if classifier else detector_cfg(norm="FrozenBN")
    if classifier:
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        cfg.MODEL.BACKBONE.FREEZE_AT = 0
        cfg.MODEL.RESNETS.NORM = "BN"
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    for change in changes:
        cfg.MODEL.merge_from_other_cfg(CfgNode(change))
    cfg.INPUT.FORMAT = form
    order = 1 if form == "BGR" else -1
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = MEAN_BGR[::order], STD_BGR[::order]
    return cfg


def settle(model: nn.Module, seed: int = 3) -> nn.Module:
    """Give norms statistics and factors as after a training, in place."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_buffers(), *model.named_parameters()]:
            end = name.rpartition(".")[2]
            if end == "num_batches_tracked":
                value.fill_(11)
            elif end == "running_mean" or (end == "bias" and value.dim() == 1):
                value.copy_(0.2 * torch.randn(value.shape, generator=g))
            elif end == "running_var" or (end == "weight" and value.dim() == 1):
                value.copy_(torch.rand(value.shape, generator=g) + 0.5)
    return model.eval()


def request(cfg: CfgNode, classes: tuple[str, ...] = ("disc", "square")) -> ExportRequest:
    """What a format gets: two pieces of a photo, or of noise where no photo is installed."""
    torch.manual_seed(0)
    model = settle(build_student(cfg, "cpu"))
    try:
        pixels = photo()
    except FileNotFoundError:
        pixels = np.random.default_rng(0).integers(0, 256, (161, 215, 3), dtype=np.uint8)
    whole = in_format(pixels, cfg.INPUT.FORMAT)
    return ExportRequest(cfg, cfg, model, [whole, whole[:, :96, :128]], lambda n: [], classes)


def run_code(folder: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Run the lines that the note beside a file gives to people, in its folder; return their ``model``."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec("\n".join(lines), names)
    return names["model"].eval()
