"""The whole: a recipe that trains, distils, compares, draws and exports, also when it is killed on the way."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.config import CfgNode

from tests.tiny import detector_cfg, distill_cfg, write_voc

ROOT = Path(__file__).parents[2]
STEPS = ("teacher", "paraphraser", "student")
PAIRS = {
    "ft": {"METHOD": "FactorTransfer", "AT": ["backbone:p3"], "REDUCTION": "scaled", "PARAPHRASER": "later"},
    "fm": {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"], "WEIGHT": 1e-3, "LSH": True},
}

pytestmark = pytest.mark.slow


def write_recipe(folder):
    """A recipe of three steps of 12 iterations, with a checkpoint every 3."""
    voc = write_voc(folder / "voc")

    def prepared(cfg: CfgNode) -> CfgNode:
        cfg.DATASETS.VOC.recipe_shapes = CfgNode({"ROOT": str(voc), "SPLIT": "all"})
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("recipe_shapes",)
        cfg.SOLVER.BASE_LR = 0.001
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.CHECKPOINT_PERIOD = 12, (8,), 3
        return cfg

    teacher = prepared(detector_cfg(width=8, norm="BN"))
    node = {"CONFIG": str(folder / "teacher.yaml"), "WEIGHTS": "later"}
    student = prepared(distill_cfg(detector_cfg(norm="BN"), node, PAIRS))
    student.DISTILL.CALIBRATION_BATCHES = 2
    paraphraser = student.clone()
    paraphraser.MODEL.META_ARCHITECTURE = "ParaphraserPretrainer"
    for name, cfg in zip(STEPS, (teacher, paraphraser, student), strict=True):
        (folder / f"{name}.yaml").write_text(cfg.dump())
    weights = {"DISTILL.TEACHERS.big.WEIGHTS": "{teacher}"}
    options = ({}, weights, {**weights, "DISTILL.PAIRS.ft.PARAPHRASER": "{paraphraser}"})
    content = {
        "output": str(folder / "out"),
        "steps": [
            {"name": n, "config": str(folder / f"{n}.yaml"), "options": o}
            for n, o in zip(STEPS, options, strict=True)
        ],
        "compare": {"teacher": "teacher", "student": "student"},
        "picture": {"photos": 2, "threshold": 0.0},
        "export": "student",
        "next": "Now your own.",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def start(folder, output):
    command = [
        sys.executable,
        str(ROOT / "tools/run_recipe.py"),
        str(folder / "recipe.yaml"),
        "--output",
        str(output),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    heard = functools.partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # ignored in the background of a shell
    return subprocess.Popen(
        command,
        preexec_fn=heard,
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process):
    text = process.communicate(timeout=500)[0]
    assert process.returncode == 0, text
    return text


def wait_for(file, process):
    while not file.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def weights(output, step):
    return torch.load(output / step / "model_final.pth", weights_only=False)["model"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A recipe that ran without interruption, and what it said."""
    folder = tmp_path_factory.mktemp("recipe")
    write_recipe(folder)
    return folder, finish(start(folder, folder / "straight"))


def test_the_recipe_ends_with_the_table_the_picture_and_the_exported_student(straight):
    folder, said = straight
    output = folder / "straight"
    rows = json.loads((output / "comparison.json").read_text())
    assert [row["name"] for row in rows] == ["teacher", "student"]
    assert rows[0]["cost"]["parameters"] > rows[1]["cost"]["parameters"]
    assert rows[1]["results"]["bbox/AP"] >= 0
    exported = torch.load(output / "export" / "student.pth")["model"]
    final = weights(output, "student")
    assert all(torch.equal(value, final[name]) for name, value in exported.items())
    assert (output / "comparison.png").stat().st_size > 10_000
    assert "Now your own." in said and "[3/3] student" in said and "12/12" in said


def test_killed_twice_it_ends_in_the_weights_of_the_run_that_was_not(straight):
    folder, _ = straight
    output = folder / "killed"
    for step, number in (("teacher", signal.SIGKILL), ("student", signal.SIGINT)):
        process = start(folder, output)
        wait_for(output / step / "model_0000005.pth", process)
        process.send_signal(number)
        said = process.communicate(timeout=60)[0]
        assert process.returncode != 0 and "Traceback" not in said
        assert not (output / step / "model_final.pth").exists()
    assert "Run the same command again to continue" in said
    said = finish(start(folder, output))
    assert "[1/3] teacher: finished earlier" in said and "[3/3] student: going on with" in said
    for step in STEPS:
        expected = weights(folder / "straight", step)
        found = weights(output, step)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected), step
