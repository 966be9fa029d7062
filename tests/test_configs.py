"""Configs are code: every file under configs/ loads, survives a round trip, builds and takes a step at reduced size."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import LazyConfig
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from det_distill import Distiller
from det_distill.benchmark import synthetic_batches, with_random_weights
from det_distill.config import complete_config, get_cfg
from det_distill.hooks import calibrate_hashes
from det_distill.recipes import load_recipe

FOLDER = Path(__file__).parents[1] / "configs"
YAML = sorted(FOLDER.rglob("*.yaml"))
RECIPES = [p for p in YAML if "steps" in yaml.safe_load(p.read_text())]
MODELS = [p for p in YAML if p not in RECIPES and not p.name.startswith("Base-")]


def names(path):
    return str(path.relative_to(FOLDER))


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


@pytest.mark.parametrize("path", MODELS, ids=names)
def test_it_builds_and_takes_a_step_at_reduced_size(path, tmp_path):
    pytest.importorskip("timm")
    cfg = load(path)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    torch.manual_seed(0)
    model = build_model(with_random_weights(cfg, tmp_path)).train()
    (data,) = synthetic_batches(cfg, 64, 96, 2, count=1)
    if isinstance(model, Distiller):
        calibrate_hashes(model, [data])
    with EventStorage():
        losses = model(data)
    assert all(math.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None for p in trained)


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_a_recipe_is_sound_and_its_configs_exist(path):
    assert load_recipe(str(path)).steps


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=names)
def test_a_lazy_config_loads(path):
    assert LazyConfig.load(str(path)).model
