"""What docs/backbones.md says of the networks, compared with them; its tables of keys are compared in test_readme."""

import ast
import re

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from det_distill.classification import ImageClassifier
from det_distill.config import build_student
from det_distill.modeling import NIN, PlainNet, WideResNet
from tests.documents import ROOT, blocks_of
from tests.tiny import classifier_cfg

PAGE = (ROOT / "docs/backbones.md").read_text()


def parameters(backbone, classes):
    shapes = backbone.output_shape()
    channels = shapes[list(shapes)[-1]].channels
    return sum(p.numel() for p in backbone.parameters()) + (channels + 1) * classes


def number(text):
    return int(text.replace(",", ""))


def test_wide_resnets_have_as_many_parameters_as_the_page_says():
    rows = re.findall(r"^\| WRN-(\d+)-(\d+) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for depth, width, ten, hundred in rows:
        with torch.device("meta"):
            network = WideResNet(int(depth), width=int(width))
        assert (parameters(network, 10), parameters(network, 100)) == (number(ten), number(hundred))


def test_networks_in_networks_have_as_many_parameters_as_the_page_says():
    rows = re.findall(r'^\| `"(\w+)"`, ([\d.]+) \| (.+) \| ([\d,]+) \|$', PAGE, re.MULTILINE)
    assert len(rows) == 4
    for layout, width, whose, ten in rows:
        with torch.device("meta"):
            network = NIN(layout, width=float(width), norm="BN" if '`NORM: "BN"`' in whose else "")
        assert parameters(network, 10) == number(ten)


def test_every_row_of_layers_makes_a_network_for_images_of_its_size():
    rows = re.findall(r"^\| `(\[.+?\])` \| .+ \| `IMAGE_SIZE: (\d+)` \|$", PAGE, re.MULTILINE)
    assert len(rows) == 5
    for layers, size in rows:
        PlainNet(ast.literal_eval(layers), image_size=int(size))(torch.zeros(1, 3, int(size), int(size)))


def test_every_builder_of_the_first_table_exists_and_makes_the_features_that_it_names():
    rows = re.findall(r"^\| `(build_\w+)`(?:, `(\w+_fpn_\w+)`)? \| .+ \| (.+): (.+) \|$", PAGE, re.MULTILINE)
    ours = [name for name, made in BACKBONE_REGISTRY if made.__module__.startswith("det_distill.")]
    assert set(ours) <= {name for row in rows for name in row[:2]} and len(rows) == 8
    for builder, pyramid, features, _ in rows:
        if builder == "build_timm_backbone":
            pytest.importorskip("timm", reason="needs the extra det_distill[timm]")
        cfg = classifier_cfg()
        cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
        backbone = BACKBONE_REGISTRY.get(builder)(cfg, ShapeSpec(channels=3))
        named = re.findall(r"`(\w+)`", features)
        assert set(named) & set(backbone.output_shape()) and (not pyramid or pyramid in BACKBONE_REGISTRY)
        if builder.split("_")[1] in ("cifar", "wide"):
            assert named == list(backbone.output_shape())


@pytest.mark.parametrize("block", blocks_of("docs/backbones.md"), ids=lambda block: f"line{block.line}")
def test_a_config_of_the_page_builds_a_classifier(block):
    assert block.language == "yaml"
    cfg = classifier_cfg()
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(block.text)))
    model = build_student(cfg)
    assert isinstance(model, ImageClassifier)
    assert all(p.requires_grad for p in model.parameters())
