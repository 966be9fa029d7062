"""detectron2's VOC evaluator beside ours on a synthetic set: what is measured, and that both find the same."""

import csv
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog

from det_distill.benchmark import evaluation
from det_distill.benchmark.evaluation import EvaluationReport, measure_evaluation
from det_distill.benchmark.synthetic_voc import SyntheticVoc
from det_distill.data.voc import load_voc

TOOL = str(Path(__file__).parents[1] / "tools" / "benchmark.py")


def test_ratios_are_of_the_evaluators_and_with_loading_of_all():
    seconds = {
        "detectron2, 11-point": [(1.0, 0.0, 2.0, 18.0)],
        "detectron2, area": [(3.0, 0.0, 2.0, 38.0)],
        "det_distill, all rules": [(4.0, 0.5, 0.5, 1.0), (4.0, 0.5, 0.5, 9.0), (2.0, 0.0, 0.5, 1.0)],
    }
    report = EvaluationReport({"images": 7}, seconds, 1e-14, 64_000_000)
    assert list(report.ratios().values()) == [10.0, 21 / 6, 20.0, 43 / 6]
    lines = report.table().splitlines()
    assert lines[0] == "images 7" and lines[1].split() == ["seconds", *evaluation.PARTS, "evaluator"]
    assert lines[4].split()[-5:] == ["4.00", "0.50", "0.50", "1.00", "2.00"]
    assert lines[-2].endswith("1.0e-14 percent points") and lines[-1] == "peak memory of ours: 64 MB"


def test_the_set_is_a_voc_folder_with_an_object_of_every_class(tmp_path):
    data = SyntheticVoc(tmp_path, 30, 4)
    assert data.write() > 30
    dicts = load_voc(data.root, "test", data.classes)
    easy = [a["category_id"] for d in dicts for a in d["annotations"] if not a["difficult"]]
    assert len(dicts) == 30 and set(easy) == {0, 1, 2, 3}
    assert any(a["difficult"] for d in dicts for a in d["annotations"])


def test_detections_are_seeded_and_have_no_digits_that_detectron2_does_not_write(tmp_path):
    first, second = (SyntheticVoc(tmp_path, 5, 2).detections() for _ in range(2))
    for (name, one), (_, two) in zip(first, second, strict=True):
        assert name in ("000000", "000001", "000002", "000003", "000004")
        assert (one.pred_boxes.tensor == two.pred_boxes.tensor).all() and (one.scores == two.scores).all()
        assert (2 * one.pred_boxes.tensor % 1 == 0).all()
        np.testing.assert_allclose(
            one.scores.numpy(), np.round(one.scores.numpy().astype(float), 3), atol=1e-7
        )


def test_both_find_the_same_and_nothing_stays_registered(tmp_path):
    before = set(DatasetCatalog.list())
    report = measure_evaluation(40, 3, memory=False)
    assert report.difference <= 1e-9 and report.setting["images"] == 40
    assert {name: len(times) for name, times in report.seconds.items()} == {
        "detectron2, 11-point": 1,
        "detectron2, area": 1,
        "det_distill, all rules": 3,
    }
    assert set(DatasetCatalog.list()) == before and np.argsort is evaluation.np.argsort


def test_numbers_that_differ_are_an_error(monkeypatch):
    ours = evaluation._ours

    def wrong(*arguments):
        times, results = ours(*arguments)
        return times, {"voc": {key: value + 1e-6 for key, value in results["voc"].items()}}

    monkeypatch.setattr(evaluation, "_ours", wrong)
    with pytest.raises(RuntimeError, match="detectron2's numbers and ours differ by 1.0e-06 percent points"):
        measure_evaluation(12, 2, memory=False)


def tool(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [TOOL, *arguments])
    runpy.run_path(TOOL, run_name="__main__")


def test_the_tool_needs_no_config_and_prints_and_writes_the_ratios(monkeypatch, tmp_path, capsys):
    files = ["--json", str(tmp_path / "e.json"), "--csv", str(tmp_path / "e.csv")]
    tool(monkeypatch, "--evaluation", "--images", "12", "--classes", "2", "--no-memory", *files)
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "e.json").read_text())
    with open(tmp_path / "e.csv") as file:
        (row,) = csv.DictReader(file)
    assert row["images"] == "12" and row["classes"] == "2"
    for name, ratio in written["ratios"].items():
        assert f"{name} " in printed and f"{ratio:.1f}" in printed
        assert float(row[name]) == pytest.approx(ratio, abs=0.01)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a distillation with --config-file, or choose --evaluation"),
        (["--evaluation", "--config-file", "x.yaml"], "--evaluation measures a synthetic set"),
        (["--evaluation", "--data"], "--evaluation measures a synthetic set"),
        (["--evaluation", "--images", "3", "--classes", "4"], "3 images of 4 classes make no set"),
        (["--evaluation", "--images", "3", "--classes", "0"], "3 images of 0 classes make no set"),
    ],
)
def test_what_cannot_be_measured_ends_in_one_sentence(monkeypatch, words, message):
    with pytest.raises(SystemExit, match=f"benchmark.py: {message}"):
        tool(monkeypatch, *words)


@pytest.mark.slow
def test_ours_is_ten_times_faster_and_its_memory_is_bounded():
    report = measure_evaluation(300, 20)
    assert min(ratio for name, ratio in report.ratios().items() if "loading" not in name) > 10
    assert 1e6 < report.peak_bytes < 1e8
