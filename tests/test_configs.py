"""Configs are code: every file under configs/ loads, survives a round trip, builds and trains at reduced size."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import LazyConfig
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
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


def reduced(cfg, folder):
    """The config at a size that trains on a CPU within seconds, teachers and paraphrasers being random."""
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.SOLVER.BASE_LR = "cpu", "", 1e-3
    options = [item for pair in NARROW.items() for item in pair]
    if cfg.MODEL.BACKBONE.NAME.startswith("build_resnet"):
        cfg.merge_from_list(options)
        for node in cfg.DISTILL.TEACHERS.values():
            node.OPTS = [*node.OPTS, *options]
    return with_random_weights(cfg, folder)


@pytest.mark.parametrize("path", MODELS, ids=names)
def test_it_builds_and_trains_two_steps_at_reduced_size(path, tmp_path):
    pytest.importorskip("timm")
    torch.manual_seed(0)
    cfg = reduced(load(path), tmp_path)
    model = build_model(cfg).train()
    batches = synthetic_batches(cfg, 64, 96, 2, count=2)
    if isinstance(model, Distiller):
        calibrate_hashes(model, batches)
    optimizer = build_optimizer(cfg, model)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    before = {n: p.detach().clone() for n, p in trained.items()}
    for data in batches:
        with EventStorage():
            losses = model(data)
        assert all(math.isfinite(v) for v in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        assert trained and all(p.grad is not None for p in trained.values())
        optimizer.step()
    assert all(p.isfinite().all() for p in trained.values())
    moved = [n for n, p in trained.items() if not torch.equal(p, before[n])]
    assert len(moved) > len(trained) / 2


@pytest.mark.parametrize("path", RECIPES, ids=names)
def test_a_recipe_is_sound_and_its_configs_exist(path):
    assert load_recipe(str(path)).steps


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=names)
def test_a_lazy_config_loads(path):
    assert LazyConfig.load(str(path)).model
