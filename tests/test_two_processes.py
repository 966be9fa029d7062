"""Two processes on the CPU (gloo, started by torchrun) train, resume and measure as one does with the same batches.

What is the same are the images of each step, so gradients differ by the order of their sums alone. `TOLERANCE` bounds
the difference of the weights after six steps, in which they move by more than a thousand times that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode

from tests.tiny import (
    build,
    classifier_cfg,
    detector_cfg,
    distill_cfg,
    save_teacher,
    write_image_folder,
    write_voc,
)
from tests.train_each import train_each

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5
STEPS = 6
PAIRS = {
    "kd": {"METHOD": "SoftTarget", "AT": ["classifier"], "TEMPERATURE": 4.0},
    "at": {"METHOD": "AttentionTransfer", "AT": ["backbone:res3", "backbone:res4"], "WEIGHT": 100.0},
    "ft": {
        "METHOD": "FactorTransfer",
        "AT": ["backbone:res4"],
        "PARAPHRASER_KIND": "none",
        "REDUCTION": "scaled",
        "START": 2,
    },
}
HASHES = {"METHOD": "FeatureMimicking", "AT": ["embedding"], "LSH": True, "HASHES": 32, "BIAS": "mean"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two_processes")


@pytest.fixture(scope="module")
def cfg(folder):
    student = classifier_cfg()
    student.MODEL.CIFAR_RESNET.NORM = "GN"
    student.MODEL.CIFAR_RESNET.WIDTH = 2  # detectron2's group norm has 32 groups
    student.DATASETS.IMAGES.of_two = CfgNode({"ROOT": str(write_image_folder(folder / "images", count=9))})
    student.DATASETS.TRAIN = student.DATASETS.TEST = ("of_two",)
    student.SOLVER.IMS_PER_BATCH = 8
    student.SOLVER.MAX_ITER = STEPS
    student.SOLVER.CHECKPOINT_PERIOD = STEPS
    teacher = student.clone()
    teacher.MODEL.CIFAR_RESNET.DEPTH = 14
    return distill_cfg(student, save_teacher(folder, teacher), PAIRS)


def command_line(folder, cfg, name, processes, *options, resume=False):
    """The words for tools/train_net.py; the run's folder is ``<name>-<processes>``."""
    file = folder / f"{name}.yaml"
    file.write_text(cfg.dump())
    resumed = ["--resume"] if resume else []
    output = ["OUTPUT_DIR", str(folder / f"{name}-{processes}"), "PROGRESS_BAR", "off"]
    return ["--config-file", str(file), *resumed, *output, *options]


def in_two_processes(*words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]


def weights(folder, run, file="model_final.pth"):
    state = torch.load(folder / run / file)["model"]
    # detectron2's synchronised norm keeps another estimate of the variance than torch's: divided by n, not n - 1
    return {k: v for k, v in state.items() if v.is_floating_point() and not k.endswith("running_var")}


def logged(folder, run):
    found = {}
    for line in (folder / run / "metrics.json").read_text().splitlines():
        found.update(json.loads(line))
    return found


def difference(one, two):
    assert one.keys() == two.keys()
    return max(float((one[k] - two[k]).abs().max()) for k in one)


def assert_same_run(folder, name, file="model_final.pth"):
    one, two = weights(folder, f"{name}-1", file), weights(folder, f"{name}-2", file)
    assert difference(one, two) < TOLERANCE


def test_torchrun_trains_and_measures_as_one_process_does(folder, cfg):
    in_two_processes("tools/train_net.py", *command_line(folder, cfg, "plain", 2))
    train_each([command_line(folder, cfg, "plain", 1)])
    assert_same_run(folder, "plain")
    begun = build(cfg, seed=7).state_dict()
    ended = {k: v for k, v in weights(folder, "plain-2").items() if k in begun}
    assert difference({k: begun[k] for k in ended}, ended) > 1000 * TOLERANCE
    one, two = logged(folder, "plain-1"), logged(folder, "plain-2")
    assert "classification/top1" in one and {
        "distill_kd_classifier",
        "distill_at_res3",
        "distill_ft_res4",
    } < set(one)
    compared = [k for k in one if k.startswith(("classification", "big/", "distill", "loss"))]
    assert {k: two[k] for k in compared} == pytest.approx({k: one[k] for k in compared}, abs=1e-3)


def _synchronised_norm(cfg):
    cfg.MODEL.CIFAR_RESNET.NORM = "naiveSyncBN"
    cfg.DISTILL.CALIBRATION_BATCHES = 2
    cfg.DISTILL.PAIRS.fm = CfgNode(HASHES)


def _in_memory(cfg):
    cfg.INPUT.CLASSIFICATION.LOADER = "memory"


def _in_parts(cfg):
    cfg.SOLVER.ACCUMULATE = 2


def _early_map(cfg):
    cfg.MODEL.CLASSIFIER.FEATURE = "res3"
    cfg.DISTILL.ENABLED = False


def _pyramid(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_cifar_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4"]
    cfg.MODEL.FPN.OUT_CHANNELS = 8
    cfg.DISTILL.ENABLED = False


def _paraphrasers(cfg):
    cfg.MODEL.META_ARCHITECTURE = "ParaphraserPretrainer"
    cfg.DISTILL.PAIRS.ft.PARAPHRASER_KIND = "paraphraser"
    cfg.SOLVER.BASE_LR = 0.01


def _averaged(cfg):
    cfg.SOLVER.EMA.DECAY = 0.9


def _compiled(cfg):
    cfg.MODEL.COMPILE = "aot_eager"


def _gradient_shares(cfg):
    cfg.DISTILL.GRADIENT_SHARE_PERIOD = 2


VARIANTS = {
    function.__name__[1:]: function
    for function in (
        _synchronised_norm,
        _in_memory,
        _in_parts,
        _early_map,
        _pyramid,
        _paraphrasers,
        _averaged,
        _compiled,
        _gradient_shares,
    )
}


def detector(folder):
    """A distilled detector's config; its proposals are sampled at random, in each process for itself."""
    student, teacher = detector_cfg(norm="BN"), detector_cfg(width=8, fpn=24)
    voc = CfgNode({"ROOT": str(write_voc(folder / "voc")), "SPLIT": "all"})
    for node in (student, teacher):
        node.DATASETS.VOC.shapes_of_two = voc
        node.DATASETS.TRAIN = node.DATASETS.TEST = ("shapes_of_two",)
        node.SOLVER.BASE_LR, node.SOLVER.MAX_ITER = 1e-3, STEPS
    pairs = {
        "fm": {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"], "WEIGHT": 1e-3, "LSH": True},
        "at": {"METHOD": "AttentionTransfer", "AT": ["backbone:p3"], "START": 2},
    }
    return distill_cfg(student, save_teacher(folder, teacher, "detecting_teacher"), pairs)


@pytest.fixture(scope="module")
def many(folder, cfg):
    """Runs of all variants, in two processes and in one, and one that was interrupted."""
    made = {}
    for name, change in VARIANTS.items():
        made[name] = cfg.clone()
        change(made[name])
    lines = {n: [command_line(folder, c, v, n) for v, c in made.items()] for n in (1, 2)}
    half = ("SOLVER.MAX_ITER", str(STEPS // 2))
    lines[2] += [
        command_line(folder, cfg, "resumed", 2, *half),
        command_line(folder, cfg, "resumed", 2, resume=True),
        command_line(folder, detector(folder), "detector", 2),
    ]
    lines[1] += [command_line(folder, cfg, "resumed", 1)]
    (folder / "lines.json").write_text(json.dumps(lines[2]))
    in_two_processes("tests/train_each.py", str(folder / "lines.json"))
    train_each(lines[1])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*VARIANTS, "resumed"])
def test_two_processes_train_as_one_does(many, variant):
    assert_same_run(many, variant)


@pytest.mark.slow
def test_two_processes_keep_the_average_that_one_keeps(many):
    assert_same_run(many, "averaged", "model_ema.pth")


@pytest.mark.slow
def test_two_processes_measure_a_detector_as_one_does(many):
    line = command_line(many, detector(many), "detector", 1)
    weights = ["MODEL.WEIGHTS", str(many / "detector-2" / "model_final.pth")]
    (results,) = train_each([["--eval-only", *line, *weights]])
    found = logged(many, "detector-2")
    flat = {f"{kind}/{name}": value for kind, values in results.items() for name, value in values.items()}
    assert "bbox/AP" in flat
    assert {k: found[k] for k in flat} == pytest.approx(flat, nan_ok=True)
