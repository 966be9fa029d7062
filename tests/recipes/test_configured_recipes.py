"""The recipes in configs/, run to their ends with two iterations a step on small data: every stage fits the next."""

import functools
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from det_distill.data.demo import prepare_demo_tiles
from det_distill.recipes import load_recipe, run_recipe, write_report

ROOT = Path(__file__).parents[2]
RECIPES = [
    path
    for folder in ("demo", "CIFAR-Classification")
    for path in sorted((ROOT / "configs" / folder).glob("*.yaml"))
    if "steps" in yaml.safe_load(path.read_text())
]
SHORT = {
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": "(1,)",
    "DATALOADER.NUM_WORKERS": 0,
    "DISTILL.CALIBRATION_BATCHES": 1,
}
SMALL = {
    "demo": {"SOLVER.IMS_PER_BATCH": 1, "INPUT.MIN_SIZE_TEST": 64, "INPUT.MIN_SIZE_TRAIN": "(64,)"},
    "CIFAR-Classification": {"SOLVER.IMS_PER_BATCH": 8},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    prepare_demo_tiles(folder)
    for split in ("train", "test"):
        for label in range(10):
            place = folder / "cifar10" / split / f"class{label}"
            place.mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (32, 32), (25 * label, 100 * i, 50)).save(place / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        for catalog in (DatasetCatalog, MetadataCatalog):
            patch.setattr(catalog, "data", {})  # what these recipes register is forgotten again
        yield folder


@pytest.fixture(scope="module")
def finish(data, tmp_path_factory):
    """A function: recipe's file -> the recipe, shortened and run, the rows of its table, what was said."""
    pytest.importorskip("timm")

    @functools.cache
    def run(path):
        recipe = load_recipe(str(path), str(tmp_path_factory.mktemp("recipe")))
        options = {**SHORT, **SMALL[path.parent.name]}
        steps = [replace(step, options={**step.options, **options}) for step in recipe.steps]
        recipe, said = replace(recipe, steps=steps), []
        configs = run_recipe(recipe, [sys.executable, str(ROOT / "tools/train_net.py")], say=said.append)
        return recipe, write_report(recipe, configs, say=said.append), "\n".join(said)

    return run


def weights(recipe, step):
    return torch.load(recipe.output / step / "model_final.pth", weights_only=False)["model"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_step_ends_and_every_compared_one_was_measured(finish, path):
    recipe, rows, said = finish(path)
    assert [row.name for row in rows] == list(recipe.compare)
    for row in rows:
        assert row.results and row.cost.parameters > 0
    assert str(recipe.output / "comparison.md") in said
    for step in recipe.steps:
        lines = (recipe.output / step.name / "metrics.json").read_text().splitlines()
        assert json.loads(lines[-1])["iteration"] >= 1


def test_the_embedding_of_feature_mimicking_trains_alone_first_and_stays_in_the_student(finish):
    recipe, _, _ = finish(ROOT / "configs/CIFAR-Classification/recipe_feature_mimicking.yaml")
    before, after = weights(recipe, "student_alone"), weights(recipe, "embedding")
    assert all(torch.equal(after[n], v) for n, v in before.items() if n.startswith("backbone"))
    assert "embedding.weight" in after and "embedding.weight" not in before
    exported = torch.load(recipe.output / "export/student.pth")["model"]
    assert exported["embedding.weight"].shape == (64, 64)
    assert not torch.equal(exported["embedding.weight"], after["embedding.weight"])


@pytest.mark.parametrize(
    ("path", "untouched"),
    [
        ("CIFAR-Classification/recipe_fsp.yaml", "classifier.bias"),
        ("demo/recipe_fsp.yaml", "roi_heads.box_head.fc1.bias"),
    ],
)
def test_the_first_stage_of_fsp_leaves_the_heads_alone(finish, path, untouched):
    recipe, _, _ = finish(ROOT / "configs" / path)
    assert not weights(recipe, "matrices")[untouched].any()  # as it was initialised
    assert weights(recipe, "student")[untouched].any()
    assert not any(name.startswith("distill.") for name in weights(recipe, "student"))
