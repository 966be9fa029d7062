"""Small detectors, data and configs that the tests share; everything trains in well under a second a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from PIL import Image

from det_distill.config import build_student, complete_config, get_cfg

CLASSES = ("disc", "square")


def detector_cfg(*, width: int = 4, fpn: int = 16, classes: int = 2, norm: str = "FrozenBN") -> CfgNode:
    """A Faster R-CNN with FPN on a ResNet-50 of a small part of the usual width (64)."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 50
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = width
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 4 * width
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = fpn
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 100
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 50
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 24
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.INPUT.MIN_SIZE_TRAIN = (64,)
    cfg.INPUT.MIN_SIZE_TEST = 64
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.CHECKPOINT_PERIOD = 10
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 7
    return cfg


def classifier_cfg(*, depth: int = 8, classes: int = 2, embedding: int = 0) -> CfgNode:
    """An image classifier on a CIFAR ResNet, for images of 8 pixels."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.META_ARCHITECTURE = cfg.DISTILL.STUDENT_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.BACKBONE.NAME = "build_cifar_resnet_backbone"
    cfg.MODEL.CIFAR_RESNET.DEPTH = depth
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = classes
    cfg.MODEL.CLASSIFIER.EMBEDDING_DIM = embedding
    cfg.MODEL.PIXEL_STD = [64.0, 64.0, 64.0]
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.CLASSIFICATION.CROP = 8
    cfg.INPUT.CLASSIFICATION.PAD = 1
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.BASE_LR = 0.05
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SEED = 7
    return cfg


def build(cfg: CfgNode, seed: int = 0) -> torch.nn.Module:
    """The plain detector of a config, with seeded weights, on the CPU."""
    torch.manual_seed(seed)
    return build_student(cfg)


def save_teacher(folder: Path, cfg: CfgNode, name: str = "teacher", seed: int = 1) -> dict[str, str]:
    """Write a teacher's config and weights; return its node for DISTILL.TEACHERS."""
    config, weights = folder / f"{name}.yaml", folder / f"{name}.pth"
    config.write_text(cfg.dump())
    torch.save({"model": build(cfg, seed).state_dict()}, weights)
    return {"CONFIG": str(config), "WEIGHTS": str(weights)}


def distill_cfg(student: CfgNode, teacher: dict[str, str], pairs: dict[str, dict]) -> CfgNode:
    """A student's config with one teacher and pairs."""
    cfg = student.clone()
    cfg.MODEL.META_ARCHITECTURE = "Distiller"
    cfg.DISTILL.TEACHERS.big = CfgNode(dict(teacher))
    for name, node in pairs.items():
        cfg.DISTILL.PAIRS[name] = CfgNode(dict(node))
    complete_config(cfg)
    return cfg


def batch(sizes: tuple[tuple[int, int], ...] = ((64, 96), (80, 64)), seed: int = 0) -> list[dict]:
    """Training samples with two boxes each."""
    g = torch.Generator().manual_seed(seed)
    samples = []
    for height, width in sizes:
        boxes = torch.tensor([[4.0, 6.0, 30.0, 40.0], [20.0, 10.0, 60.0, 50.0]])
        instances = Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.tensor([0, 1]))
        image = torch.randint(0, 256, (3, height, width), generator=g, dtype=torch.uint8)
        samples.append({"image": image, "instances": instances, "height": height, "width": width})
    return samples


def write_voc(root: Path, count: int = 6, seed: int = 0) -> Path:
    """A data set of discs and squares in PASCAL VOC layout; one split, ``all``."""
    rng = np.random.default_rng(seed)
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"im{i:03d}" for i in range(count)]
    for i, name in enumerate(names):
        height, width = ((64, 80), (80, 64))[i % 2]
        pixels = rng.integers(90, 110, (height, width, 3), dtype=np.uint8)
        objects = []
        for label in range(2):
            x, y = (int(v) for v in rng.integers(2, (width - 26, height - 26)))
            side = int(rng.integers(16, 24))
            yy, xx = np.mgrid[:height, :width]
            inside = (abs(xx - x - side / 2) < side / 2) & (abs(yy - y - side / 2) < side / 2)
            if label == 0:
                inside = (xx - x - side / 2) ** 2 + (yy - y - side / 2) ** 2 < side**2 / 4
            pixels[inside] = (230, 40, 40) if label == 0 else (40, 40, 230)
            objects.append((CLASSES[label], x + 1, y + 1, x + side, y + side))
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        body = "".join(
            f"<object><name>{n}</name><difficult>0</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
            f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
            for n, a, b, c, d in objects
        )
        (root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename><size><width>{width}</width><height>{height}</height>"
            f"<depth>3</depth></size>{body}</annotation>"
        )
    (root / "ImageSets" / "Main" / "all.txt").write_text("\n".join(names) + "\n")
    return root


def write_image_folder(
    root: Path, count: int = 4, size: tuple[int, int] = (8, 8), suffix: str = ".png"
) -> Path:
    """A folder of noisy images, `count` of each of `CLASSES`: discs are red, squares are blue."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
            pixels[..., 2 * label] += 120
            Image.fromarray(pixels).save(root / name / f"{i:03d}{suffix}")
    return root
