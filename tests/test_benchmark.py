"""Times, ratios and memory of a distilled step: derived by hand, and on a tiny detector."""

import csv
import itertools
import json
import runpy
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from det_distill.benchmark import (
    PARTS,
    Report,
    Steps,
    Throughput,
    measure_throughput,
    synthetic_batches,
    with_random_weights,
)
from det_distill.benchmark.steps import Training, build_distiller, build_plain
from det_distill.benchmark.throughput import Rates
from det_distill.engine import load_config
from tests.tiny import classifier_cfg, detector_cfg, distill_cfg, write_image_folder, write_voc

TOOL = str(Path(__file__).parents[1] / "tools" / "benchmark.py")
PAIRS = {
    "ft": {"METHOD": "FactorTransfer", "AT": ["backbone:p3"], "START": 100, "STOP": 200},
    "fm": {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"], "LSH": True},
}


@pytest.fixture
def cfg(tmp_path):
    """A distillation whose teacher's and paraphraser's weights do not exist."""
    teacher = detector_cfg(width=8, fpn=24)
    (tmp_path / "teacher.yaml").write_text(teacher.dump())
    return distill_cfg(detector_cfg(), {"CONFIG": str(tmp_path / "teacher.yaml"), "WEIGHTS": "no.pth"}, PAIRS)


@pytest.fixture
def steps(cfg, tmp_path):
    return Steps(with_random_weights(cfg, tmp_path), synthetic_batches(cfg, 64, 96, 2))


def test_ratios_are_medians_of_each_repeats_own_ratio():
    seconds = {
        "plain": [1.0, 2.0, 9.0],
        "teacher": [1.0, 2.0, 1.0],
        "pairs": [2.0, 1.0, 2.0],
        "distilled": [4.0, 5.0, 24.0],
    }
    report = Report({}, seconds, {"plain": 70, "distilled": 90}, teacher_bytes=20, tapped_bytes=3)
    assert report.medians() == {"plain": 2.0, "teacher": 1.0, "pairs": 2.0, "distilled": 5.0}
    assert list(report.ratios().values()) == [24 / 9, 2.0, 1.0]  # of 4, 2.5, 24/9; of 2, 5/4, 2.4; of 1, 1, 2
    assert report.memory_bound() == 93


def test_every_part_is_timed_as_often_as_asked_and_changes_no_weight(steps):
    before = {k: v.clone() for k, v in steps.distiller.state_dict().items()}
    times = steps.measure(2, warm_up=1)
    assert list(times) == list(PARTS) and all(len(t) == 2 and min(t) > 0 for t in times.values())
    after = steps.distiller.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_plain_and_distilled_student_start_alike_because_proposals_depend_on_weights(cfg, tmp_path):
    cfg = with_random_weights(cfg, tmp_path)
    plain, distilled = build_plain(cfg), build_distiller(cfg, synthetic_batches(cfg, 64, 96, 2)).student
    states = plain.state_dict(), distilled.state_dict()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_pairs_count_whatever_their_schedule(steps):
    assert all(pair.schedule(0) == 1 for pair in steps.distiller.distill.values())
    steps.use(0)
    steps.distilled()
    gradients = [p.grad for p in steps.distiller.distill["ft_p3"].student_adapter.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)


def test_teachers_run_on_what_is_handed_over_and_their_sizes_are_known(steps):
    assert sorted(steps.teacher_inputs()) == ["backbone@input", "roi_heads.box_pooler@input1"]
    teacher = steps.distiller.teachers["big"].model
    assert steps.teacher_bytes() == sum(4 * t.numel() for t in [*teacher.parameters(), *teacher.buffers()])
    # p3 of 64 x 96: 8 x 12 cells of 24 channels; 16 RoIs of 24 features; 2 images; 4 bytes
    assert steps.tapped_bytes() == 2 * 4 * (8 * 12 * 24 + 16 * 24)


def test_synthetic_boxes_lie_in_the_image_and_are_of_known_classes(cfg):
    for batch in synthetic_batches(cfg, 40, 90, 3):
        assert [x["image"].shape for x in batch] == [(3, 40, 90)] * 3
        for objects in (x["instances"] for x in batch):
            boxes = objects.gt_boxes.tensor
            assert (boxes >= 0).all() and (boxes <= torch.tensor([90, 40, 90, 40]) + 1e-4).all()
            assert (objects.gt_boxes.area() > 40 / 8 * 90 / 8 - 1e-3).all()
            assert objects.gt_classes.max() < cfg.MODEL.ROI_HEADS.NUM_CLASSES
    with pytest.raises(ValueError, match="0 x 90"):
        synthetic_batches(cfg, 0, 90, 3)


def test_a_config_that_distils_nothing_is_an_error(cfg):
    cfg.DISTILL.ENABLED = False
    with pytest.raises(ValueError, match="nothing to compare"):
        Steps(cfg, synthetic_batches(cfg, 64, 96, 2))


@pytest.fixture
def run(monkeypatch, tmp_path, cfg):
    cfg.DISTILL.PAIRS = CfgNode({"fm": cfg.DISTILL.PAIRS.fm})
    (tmp_path / "cfg.yaml").write_text(cfg.dump())

    def tool(*arguments):
        options = ["--config-file", str(tmp_path / "cfg.yaml"), "--size", "64", "96", "--iterations", "1"]
        monkeypatch.setattr(sys, "argv", [TOOL, *options, *arguments])
        runpy.run_path(TOOL, run_name="__main__")

    return tool


def test_the_tool_prints_a_table_and_writes_the_same_numbers(run, tmp_path, capsys):
    files = ["--json", str(tmp_path / "b.json"), "--csv", str(tmp_path / "b.csv")]
    run("--random-weights", "--no-memory", "--teacher-precision", "bfloat16", *files)
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "b.json").read_text())
    with open(tmp_path / "b.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["teacher precision"] == "bfloat16" and row["size"] == "64x96"
    for name, ratio in written["ratios"].items():
        assert f"{name} " in printed and f"{ratio:.3f}\n" in printed
        assert float(row[name]) == pytest.approx(ratio, abs=1e-4)


@pytest.mark.slow
def test_peak_memory_is_measured_in_processes_of_their_own(run, tmp_path):
    run("--random-weights", "--json", str(tmp_path / "b.json"))
    peaks = json.loads((tmp_path / "b.json").read_text())["peak_bytes"]
    assert sorted(peaks) == ["distilled", "plain", "teacher"]
    assert 1e5 < peaks["plain"] < 2e8 and peaks["distilled"] < 3e8


def test_missing_weights_end_in_one_sentence(run):
    with pytest.raises(SystemExit, match=r"benchmark.py: the weights 'no.pth' of teacher 'big' do not exist"):
        run("--no-memory")


def test_losses_of_input_gradients_count_in_the_distilled_step_alone(tmp_path):
    teacher = classifier_cfg(depth=14)
    (tmp_path / "teacher.yaml").write_text(teacher.dump())
    at = [["classifier", "backbone@input"]]
    pairs = {
        "gradient": {"METHOD": "GradientAttention", "AT": at},
        "symmetry": {"METHOD": "FlipSymmetry", "AT": at},
    }
    node = {"CONFIG": str(tmp_path / "teacher.yaml"), "WEIGHTS": "no.pth"}
    cfg = with_random_weights(distill_cfg(classifier_cfg(), node, pairs), tmp_path)
    times = Steps(cfg, synthetic_batches(cfg, 8, 8, 4)).measure(2, warm_up=1)
    assert list(times) == list(PARTS) and all(t > 0 for part in times.values() for t in part)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_step_is_computed_in_the_precision_of_the_config(precision):
    cfg = classifier_cfg()
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.PRECISION = True, precision
    if precision == "float16":
        with pytest.raises(ValueError, match="'float16' needs a GPU"):
            Training(build_plain(cfg), cfg)
        return
    model, seen = build_plain(cfg), []
    model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    training = Training(model, cfg)
    (training.batch,) = synthetic_batches(cfg, 8, 8, 4, count=1)
    training.step()
    assert seen == [torch.bfloat16]


def test_a_step_is_compiled_where_the_config_asks_for_it():
    cfg = classifier_cfg()
    cfg.MODEL.COMPILE = "nothing"
    with pytest.raises(ValueError, match="nothing"):
        Training(build_plain(cfg), cfg)
    cfg.MODEL.COMPILE = "eager"
    model = build_plain(cfg)
    Training(model, cfg)
    assert "forward" in vars(model.backbone)


def test_rates_are_medians_and_ratios_medians_of_each_rounds_own_ratio():
    first = [Rates(10, 5, 4, 0.5), Rates(20, 5, 4, 0.0), Rates(30, 5, 4, 0.25)]
    second = [Rates(40, 5, 8, 0.25), Rates(40, 5, 4, 0.0), Rates(30, 10, 4, 0.25)]
    found = Throughput({"images": 4}, {"workers": first, "memory": second})
    assert found.medians() == {"workers": Rates(20, 5, 4, 0.25), "memory": Rates(40, 5, 4, 0.25)}
    assert found.ratios() == {"memory / workers": Rates(2, 1, 1, 0)}
    lines = found.table().splitlines()
    assert lines[2].split() == ["workers", "20.0", "5.0", "4.0", "25.0", "%"]
    assert lines[4].split() == ["memory", "/", "workers", "2.000", "1.000", "1.000"]


def test_a_slow_loader_is_waited_for_and_a_fast_one_is_not(monkeypatch):
    cfg = classifier_cfg()
    cfg.DATASETS.TRAIN = ("noise",)
    batches = synthetic_batches(cfg, 8, 8, 4)
    pause = {"workers": 0.1, "memory": 0.0}

    def loader(one, seed):
        for batch in itertools.cycle(batches):
            time.sleep(pause[one.INPUT.CLASSIFICATION.LOADER])
            yield batch

    stand_in = SimpleNamespace(train_loader=loader, finds_boxes=False)
    monkeypatch.setattr("det_distill.benchmark.throughput.task_of", lambda cfg: stand_in)
    rounds = measure_throughput(cfg, ["workers", "memory"], iterations=3, rounds=2)
    assert {name: len(rates) for name, rates in rounds.items()} == {"workers": 2, "memory": 2}
    for slow, fast in zip(rounds["workers"], rounds["memory"], strict=True):
        assert 0 < slow.data <= 40 < fast.data and slow.both <= 40  # 4 images in 0.1 s
        assert 0.3 * slow.both / 12 <= slow.waiting < 1  # 3 pauses in the time of 12 images
        assert 0 < fast.waiting < slow.waiting


@pytest.fixture
def images(tmp_path):
    """The config of a classifier with data, as a file."""
    cfg = classifier_cfg()
    cfg.DATASETS.IMAGES.measured = CfgNode({"ROOT": str(write_image_folder(tmp_path / "images"))})
    cfg.DATASETS.TRAIN = ("measured",)
    (tmp_path / "images.yaml").write_text(cfg.dump())
    yield str(tmp_path / "images.yaml")
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "measured" in catalog.list():
            catalog.remove("measured")


def test_the_tool_measures_loaders_in_turn(images, monkeypatch, tmp_path, capsys):
    files = ["--json", str(tmp_path / "b.json"), "--csv", str(tmp_path / "b.csv")]
    loaders = ["--loader", "workers:1", "memory", "--iterations", "2", "--rounds", "2", "--warm-up", "3"]
    monkeypatch.setattr(sys, "argv", [TOOL, "--data", "--config-file", images, *loaders, *files])
    runpy.run_path(TOOL, run_name="__main__")
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "b.json").read_text())
    with open(tmp_path / "b.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["loader"] for row in rows] == ["workers:1", "memory"] and rows[0]["images"] == "4"
    for row in rows:
        medians = written["medians"][row["loader"]]
        assert len(written["rounds"][row["loader"]]) == 2
        assert float(row["both images/s"]) == pytest.approx(medians["both"], abs=0.1)
        assert f"{medians['data']:.1f}" in printed and 0 <= medians["waiting"] < 1
    assert "memory / workers:1" in printed and "waiting for data" in printed


@pytest.mark.parametrize("distilled", [False, True])
def test_a_detectors_loader_is_measured_too(cfg, tmp_path, distilled):
    cfg = with_random_weights(cfg, tmp_path) if distilled else detector_cfg()
    cfg.DATASETS.VOC.boxes = CfgNode({"ROOT": str(write_voc(tmp_path / "voc")), "SPLIT": "all"})
    cfg.DATASETS.TRAIN = ("boxes",)
    (tmp_path / "own.yaml").write_text(cfg.dump())
    cfg = load_config(str(tmp_path / "own.yaml"))
    try:
        ((name, (rates,)),) = measure_throughput(cfg, iterations=1, rounds=1).items()
        assert name == "workers" and min(rates.data, rates.step, rates.both) > 0 and 0 < rates.waiting < 1
        with pytest.raises(ValueError, match="a detector has one loader"):
            measure_throughput(cfg, ["memory"])
    finally:
        DatasetCatalog.remove("boxes")
        MetadataCatalog.remove("boxes")


@pytest.mark.parametrize(
    ("loaders", "counts", "message"),
    [
        (["disc"], {}, "the loader 'disc' is unknown"),
        (["memory:2"], {}, "the loader 'memory:2' is unknown"),
        (["workers:x"], {}, "the loader 'workers:x' is unknown"),
        ([], {"iterations": 0}, "measure at least one"),
        ([], {"rounds": 0}, "measure at least one"),
    ],
)
def test_what_cannot_be_measured_is_told(images, loaders, counts, message):
    with pytest.raises(ValueError, match=message):
        measure_throughput(load_config(images), loaders, **counts)


def test_throughput_needs_data_of_its_own():
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
        measure_throughput(classifier_cfg())
