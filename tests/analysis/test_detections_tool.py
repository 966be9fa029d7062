"""The report on detections from the command line: what it runs, reads and writes, and what it refuses."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from det_distill.analysis.detections import page, parse_sources, sources
from det_distill.cli import analyze
from det_distill.files import output_folder
from tests.tiny import build, detector_cfg, save_teacher, write_voc


@pytest.fixture(autouse=True)
def forget_datasets():
    known = [set(catalog) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), known, strict=True):
        for name in set(catalog) - names:
            catalog.pop(name)


def test_networks_and_files_are_told_apart_and_teachers_come_first():
    found = parse_sources(["t=c.yaml:w.pth"], ["a=found.json", "b=zoo/x.yaml:https://x/w.pkl"])
    assert [(s.name, s.is_teacher) for s in found] == [("t", True), ("a", False), ("b", False)]
    assert found[1].file == "found.json" and not found[1].config
    assert (found[2].config, found[2].weights) == ("zoo/x.yaml", "https://x/w.pkl")


@pytest.mark.parametrize(
    ("teachers", "students", "message"),
    [
        (["t=c:w"], ["t=c:v"], "two detectors are named 't'"),
        (["t=c:w"], [], "compares a teacher with students"),
        (["t=c:w"], ["c:w"], "NAME=CONFIG:WEIGHTS or NAME=FILE.json"),
        (["t=c:w"], ["=c:w"], "NAME=CONFIG:WEIGHTS or NAME=FILE.json"),
        (["t=c:w"], ["s=c"], "here is no file of weights"),
        (["t=c:w"], [f"s{i}=c:w" for i in range(7)], "8 detectors are too many"),
    ],
)
def test_a_detector_that_is_named_wrongly_is_refused(teachers, students, message):
    with pytest.raises(ValueError, match=message):
        parse_sources(teachers, students)


@pytest.fixture
def data(tmp_path):
    """A config of a data set of four images, a teacher and a student with random weights."""
    write_voc(tmp_path / "shapes", 4)
    cfg = detector_cfg()
    cfg.DATASETS.VOC["<shapes>"] = type(cfg)({"ROOT": str(tmp_path / "shapes"), "SPLIT": "all"})
    cfg.DATASETS.TEST = ("<shapes>",)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 5
    (tmp_path / "data.yaml").write_text(cfg.dump())
    big = cfg.clone()
    big.merge_from_other_cfg(detector_cfg(width=8))
    big.DATASETS = cfg.DATASETS
    big.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    big.TEST.DETECTIONS_PER_IMAGE = 5
    return tmp_path, save_teacher(tmp_path, big, "big"), save_teacher(tmp_path, cfg, "small", 2)


def report(folder, *words):
    line = ["detections", "--config-file", str(folder / "data.yaml"), "--output", str(folder / "out")]
    analyze.main([*line, "--threshold", "0.3", "--seconds", "0", *words])
    return folder / "out"


def test_the_command_runs_networks_and_writes_page_numbers_and_boxes(data, capsys):
    folder, big, small = data
    words = [
        f"--teacher=big={big['CONFIG']}:{big['WEIGHTS']}",
        f"--student=../s={small['CONFIG']}:{small['WEIGHTS']}",
    ]
    out = report(folder, *words)
    assert sorted(p.name for p in out.rglob("*.*")) == [
        "big.json", "detections.csv", "detections.html", "detections.json", "s.json",
    ]  # fmt: skip
    numbers = json.loads((out / "detections.json").read_text())
    assert (numbers["images"], numbers["objects"], numbers["data"]) == (4, 8, "<shapes>")
    assert [d["cost"]["parameters"] for d in numbers["detectors"]] == [
        sum(p.numel() for p in build(detector_cfg(width=w)).parameters()) for w in (8, 4)
    ]
    rows = list(csv.DictReader((out / "detections.csv").open()))
    assert [(r["detector"], r["class"]) for r in rows[3:]] == [
        ("../s", ""),
        ("../s", "disc"),
        ("../s", "square"),
    ]
    assert "AP50" in capsys.readouterr().out
    page_text = (out / "detections.html").read_text()

    again = [f"--teacher=big={out / 'boxes/big.json'}", f"--student=../s={out / 'boxes/s.json'}"]
    text = (report(folder, *again) / "detections.html").read_text()
    assert "no network to time" in text
    section = re.compile(r'<section id="(curves|errors|sizes)">.*?</section>', re.DOTALL)
    assert [m[0] for m in section.finditer(text)] == [m[0] for m in section.finditer(page_text)]


def test_each_network_gets_images_as_its_own_config_says(data, monkeypatch):
    folder, big, small = data
    config = Path(big["CONFIG"])
    config.write_text(re.sub(r"MIN_SIZE_TEST: 64", "MIN_SIZE_TEST: 96", config.read_text()))
    seen, run = {}, sources._run

    def noted(model, cfg, data, file, name):
        seen[name] = cfg.INPUT.MIN_SIZE_TEST
        return run(model, cfg, data, file, name)

    monkeypatch.setattr(sources, "_run", noted)
    report(
        folder, "--no-cost",
        f"--teacher=b={big['CONFIG']}:{big['WEIGHTS']}", f"--student=s={small['CONFIG']}:{small['WEIGHTS']}",
    )  # fmt: skip
    assert seen == {"b": 96, "s": 64}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (["--photos", "25"], ValueError, "at most 24"),
        (["--threshold", "2"], ValueError, "scores are from 0 to 1"),
        (["--data", "none"], ValueError, "unknown data set none; the config has: <shapes>"),
        (["--student", "x=missing.json"], FileNotFoundError, "missing.json"),
        (["--student", "x={config}:missing.pth"], FileNotFoundError, "missing.pth"),
        (
            ["--student", "x={other}:{weights}"],
            ValueError,
            "knows 3 classes, but <shapes> has 2: disc, square",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(data, monkeypatch, change, error, message):
    folder, big, small = data
    other = save_teacher(folder, detector_cfg(classes=3), "other")
    places = {"config": small["CONFIG"], "other": other["CONFIG"], "weights": other["WEIGHTS"]}
    monkeypatch.setattr(sources, "_run", lambda *words: pytest.fail("it ran"))
    words = [
        f"--teacher=b={big['CONFIG']}:{big['WEIGHTS']}",
        f"--student=s={small['CONFIG']}:{small['WEIGHTS']}",
    ]
    with pytest.raises(error, match=re.escape(message)):
        report(folder, *words, *(word.format(**places) for word in change))


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(data, monkeypatch):
    folder, big, small = data
    monkeypatch.setattr(sources, "_run", lambda *words: pytest.fail("it ran"))
    (folder / "taken").write_text("")
    words = [
        f"--teacher=b={big['CONFIG']}:{big['WEIGHTS']}",
        f"--student=s={small['CONFIG']}:{small['WEIGHTS']}",
    ]
    for place, message in [
        (str(folder / "taken"), "taken is a file: name a folder"),
        (str(folder / "taken/out"), "cannot write to the folder .*taken/out: "),
        ("/proc/out", "cannot write to the folder /proc/out: "),
    ]:
        with pytest.raises(OSError, match=f"^--output: .*{message}") as error:
            report(folder, *words, "--output", place)
        assert "\n" not in str(error.value)
    assert output_folder(str(folder / "new/er/out"), "boxes").is_dir()
    assert (folder / "new/er/out/boxes").is_dir()


def test_difficult_objects_count_by_voc_rules_where_it_is_asked_for(data):
    folder = data[0]
    file = next((folder / "shapes/Annotations").glob("*.xml"))
    file.write_text(
        re.sub(r"(<difficult>0</difficult>)?<bndbox>", "<difficult>1</difficult><bndbox>", file.read_text())
    )
    found = folder / "found.json"
    found.write_text("[]")
    missed = []
    for option in ([], ["--count-difficult"]):
        out = report(folder, f"--teacher=b={found}", f"--student=s={found}", *option)
        numbers = json.loads((out / "detections.json").read_text())
        assert numbers["objects"] == 8
        missed.append(numbers["detectors"][0]["at_threshold"]["missed"])
    assert missed == [8 - numbers["difficult"], 8] and numbers["difficult"]


def test_weights_of_another_shape_are_refused_in_one_short_line(data):
    folder, big, small = data
    words = [
        f"--teacher=b={big['CONFIG']}:{small['WEIGHTS']}",
        f"--student=s={small['CONFIG']}:{big['WEIGHTS']}",
    ]
    with pytest.raises(ValueError, match="does not fit teacher 'b': .*other shapes: ") as error:
        report(folder, *words)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_config_with_several_test_sets_asks_which(data):
    folder, big, _ = data
    word = f"{big['CONFIG']}:{big['WEIGHTS']}"
    with pytest.raises(ValueError, match="the page is about one data set, DATASETS.TEST has a, b"):
        report(folder, f"--teacher=b={word}", f"--student=s={word}", "DATASETS.TEST", "('a', 'b')")


def test_without_jinja2_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match="pip install jinja2"):
        page.environment()
