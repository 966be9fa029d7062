"""Configs are code: every file under configs/ loads, survives a round trip, builds and trains at reduced size."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

from det_distill import Distiller, model_zoo
from det_distill.benchmark import synthetic_batches, with_random_weights
from det_distill.classification import ImageClassifier
from det_distill.config import build_student, complete_config, get_cfg
from det_distill.data.noise import noise_with_boxes, noise_with_label
from det_distill.engine import load_config
from det_distill.hooks import calibrate_hashes
from det_distill.recipes import load_recipe
from det_distill.recipes.runner import check_configs
from det_distill.targets import class_count

FOLDER = Path(__file__).parents[1] / "configs"
YAML = sorted(FOLDER.rglob("*.yaml"))
RECIPES = [p for p in YAML if "steps" in yaml.safe_load(p.read_text())]
MODELS = [p for p in YAML if p not in RECIPES and not p.name.startswith("Base-")]
LAZY = sorted(FOLDER.rglob("*.py"))


def names(path):
    return str(path.relative_to(FOLDER))


def test_a_head_says_that_nothing_was_measured_only_where_that_is_so():
    results = FOLDER.parent / "benchmarks" / "results"
    rows = [row for file in results.glob("*.csv") for row in csv.DictReader(file.open())]
    measured = {FOLDER / row["config"] for row in rows if row.get("config")}
    assert len(measured) > 30
    wrong = [names(path) for path in measured if "No result" in path.read_text()]
    assert not wrong


def load(path):
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    complete_config(cfg)
    return cfg


@pytest.mark.parametrize("path", [p for p in YAML if p not in RECIPES], ids=names)
def test_it_loads_and_survives_a_round_trip(path, tmp_path):
    cfg = load(path)
    (tmp_path / "again.yaml").write_text(cfg.dump())
    assert load(tmp_path / "again.yaml").DISTILL.dump() == cfg.DISTILL.dump()
    assert cfg.OUTPUT_DIR.startswith("output/") or path.name.startswith("Base-")


NARROW = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
}
"""Narrow ResNets, with a normalisation that random weights do not overflow."""
OPTIONS = [item for pair in NARROW.items() for item in pair]


def reduced(cfg, folder):
    """The config at a size that trains on a CPU within seconds, teachers and paraphrasers being random."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.SOLVER.BASE_LR = "cpu", "", 1e-3
    if "resnet_fpn" in cfg.MODEL.BACKBONE.NAME:
        cfg.merge_from_list(OPTIONS)
        for node in cfg.DISTILL.TEACHERS.values():
            node.OPTS = [*node.OPTS, *OPTIONS]
    return with_random_weights(cfg, folder)


def image_size(cfg):
    """Height and width of the images; a network with fully connected layers takes one size only."""
    side = cfg.MODEL.PLAIN.IMAGE_SIZE if cfg.MODEL.BACKBONE.NAME == "build_plain_backbone" else 0
    return (side, side) if side else (64, 96)


def train_a_step_on_each(model, optimizer, batches):
    """Losses and gradients are there and finite, and most of what can be trained moves."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in trained.items()}
    for data in batches:
        with EventStorage():
            losses = model(data)
        assert all(math.isfinite(v.item()) for v in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        assert trained and all(p.grad is not None for p in trained.values())
        optimizer.step()
    assert all(p.isfinite().all() for p in trained.values())
    moved = [n for n, p in trained.items() if not torch.equal(p, before[n])]
    assert len(moved) > len(trained) / 2


@pytest.mark.parametrize("path", MODELS, ids=names)
def test_it_builds_and_trains_two_steps_at_reduced_size(path, tmp_path):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    cfg = reduced(load(path), tmp_path)
    model = build_model(cfg).train()
    batches = synthetic_batches(cfg, *image_size(cfg), 2, count=2)
    if isinstance(model, Distiller):
        calibrate_hashes(model, batches)
    train_a_step_on_each(model, build_optimizer(cfg, model), batches)


@pytest.fixture
def catalogs(monkeypatch):
    """Data sets that a test registers are forgotten, and those of others are not in its way."""
    monkeypatch.setattr(DatasetCatalog, "data", {})
    monkeypatch.setattr(MetadataCatalog, "data", {})


def build_steps(recipe, folder):
    """Check all configs of a recipe and build its models at reduced size: of the steps whose options, but for the
    names of files, are the same, the last one."""
    configs = check_configs(recipe)
    values = [
        {key: value for key, value in step.options.items() if "{" not in str(value)} for step in recipe.steps
    ]
    last = {str(own): step.name for own, step in zip(values, recipe.steps, strict=True)}
    models = {}
    for name in last.values():
        (folder / name).mkdir()
        models[name] = build_model(reduced(configs[name], folder / name))
    return models


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_the_steps_of_a_recipe_can_be_built(path, tmp_path, catalogs):
    pytest.importorskip("timm")
    recipe = load_recipe(str(path))
    models = build_steps(recipe, tmp_path)
    assert recipe.steps[-1].name in models
    assert all(any(p.requires_grad for p in model.parameters()) for model in models.values())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("REDUCTION", "nonsense", "DISTILL.PAIRS.feed: .*nonsense"),
        ("REDUCTOIN", "mean", "step student: .*REDUCTOIN"),
        ("WEIGHT", "heavy", "step student: .*WEIGHT"),
        ("TEACHER_NAMES", ["r56", "nobody"], "DISTILL.PAIRS.feed: .*'nobody'"),
    ],
)
def test_a_wrong_option_of_a_recipe_would_be_found(key, value, words, tmp_path, catalogs):
    recipe = load_recipe(str(FOLDER / "CIFAR-Classification/recipe_feed.yaml"))
    *others, last = recipe.steps
    wrong = replace(last, options={**last.options, f"DISTILL.PAIRS.feed.{key}": value})
    with pytest.raises(ValueError, match=words):
        build_steps(replace(recipe, steps=(*others, wrong)), tmp_path)


LAZY_NARROW = {
    "model.student.backbone.out_channels": 16,
    "model.student.proposal_generator.head.in_channels": 16,
    "model.student.roi_heads.box_head.fc_dims": [32],
    "model.student.roi_heads.box_head.input_shape.channels": 16,
    "model.student.roi_heads.box_predictor.input_shape.channels": 32,
    "model.pairs.box.HASHES": 64,
    "optimizer.lr": 1e-3,
}
"""What makes LazyConfigs as narrow as `NARROW` makes their teachers; a key that one lacks is passed over."""


@pytest.mark.parametrize("path", LAZY, ids=names)
def test_a_lazy_config_builds_and_trains_two_steps_at_reduced_size(path, tmp_path):
    torch.manual_seed(0)
    cfg = LazyConfig.load(str(path))
    for key, value in LAZY_NARROW.items():
        if OmegaConf.select(cfg, key) is not None:
            OmegaConf.update(cfg, key, value)
    for name, node in cfg.model.teachers.items():
        if name != "_target_":
            node.options, node.weights = OPTIONS, str(tmp_path / f"{name}.pth")
            teacher = build_student(load_config(model_zoo.find_config(node.config), OPTIONS), "cpu")
            torch.save({"model": teacher.state_dict()}, node.weights)
    model = instantiate(cfg.model).train()
    assert isinstance(model, Distiller) and len(model.distill)
    noise, classes = torch.Generator().manual_seed(0), class_count(model.student)
    sample = noise_with_label if isinstance(model.student, ImageClassifier) else noise_with_boxes
    batches = [[sample(64, 96, classes, noise) for _ in range(2)] for _ in range(2)]
    calibrate_hashes(model, batches)
    cfg.optimizer.params.model = model
    train_a_step_on_each(model, instantiate(cfg.optimizer), batches)
