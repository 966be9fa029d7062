"""The report on lengths and directions: what pairs it measures, what it writes."""

import csv
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from det_distill.analysis import directions_report
from det_distill.analysis.directions import build_for_distances, load_student, measure
from det_distill.analysis.directions_report import Row, directions_text, draw_directions, write_directions
from det_distill.analysis.distance import Distance
from det_distill.modes import batch_norms
from tests.tiny import (
    batch,
    build,
    classifier_cfg,
    detector_cfg,
    distill_cfg,
    save_teacher,
    write_image_folder,
    write_voc,
)

TOOL = str(Path(__file__).parents[2] / "tools" / "analyze.py")
BOX_HEAD = {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"]}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def teacher(tmp_path):
    return save_teacher(tmp_path, detector_cfg(width=8, fpn=24))


def built(teacher, pairs, at=(), student=None):
    return build_for_distances(distill_cfg(student or detector_cfg(), teacher, pairs), at)


def test_a_student_whose_box_head_is_scaled_differs_from_itself_in_lengths_alone(tmp_path):
    """The student's own copy is the teacher; doubling the last layer before a ReLU doubles every feature."""
    cfg = detector_cfg()
    same = save_teacher(tmp_path, cfg)
    model, labels = build_for_distances(distill_cfg(cfg, same, {"fm": BOX_HEAD}))
    model.student.load_state_dict(build(cfg, 1).state_dict())
    data = [batch(), batch(seed=1)]
    found = measure(model, data)["fm_box_head"]
    assert labels == {"fm_box_head": "fm_box_head"} and found.rows == 2 * 2 * 16
    assert found.squared == 0 and found.cosine == pytest.approx(1)
    with torch.no_grad():
        for parameter in model.student.roi_heads.box_head.fc1.parameters():
            parameter.mul_(2)
    found = measure(model, data)["fm_box_head"]
    assert found.magnitude_share == pytest.approx(1) and found.norm_ratio == pytest.approx(2)


def test_the_distance_is_that_of_the_adapted_features_of_the_students_proposals(teacher):
    pairs = {
        "fm": BOX_HEAD,
        "p3": {"METHOD": "FeatureMimicking", "AT": "backbone:p3", "START": 100, "STOP": 200},
    }
    wide = detector_cfg(width=8, fpn=24)
    wide.MODEL.ROI_BOX_HEAD.FC_DIM = 20
    model, _ = built(teacher, pairs, student=wide)
    found = measure(model, [batch(((64, 96),))], seed=4)
    assert found["p3"].rows == 8 * 12 and found["fm_box_head"].rows == 16
    pair = model.distill["fm_box_head"]
    seen = {}
    head = model.student.roi_heads.box_head.register_forward_hook(
        lambda m, i, o: seen.update(student=pair.student_adapter(o))
    )
    its = model.teachers["big"].model.roi_heads.box_head.register_forward_hook(
        lambda m, i, o: seen.update(teacher=o)
    )
    assert measure(model, [batch(((64, 96),))], seed=4) == found
    head.remove()
    its.remove()
    expected = (seen["student"] - seen["teacher"]).square().sum(1).mean().item()
    assert found["fm_box_head"].squared == pytest.approx(expected, rel=1e-5)


def test_measuring_changes_nothing(teacher):
    model, _ = built(teacher, {"fm": {**BOX_HEAD, "LSH": True}}, student=detector_cfg(norm="BN"))
    norms = batch_norms(model.student)
    for norm in norms[::2]:  # as those of other libraries, it has a module of its own
        norm.add_module("activation", torch.nn.Identity())
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    losses = dict(model.distill["fm_box_head"].losses.items())
    expected = torch.get_rng_state()
    measure(model, [batch()])
    assert torch.equal(torch.get_rng_state(), expected)
    assert norms and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(module.training for module in model.student.modules())
    assert dict(model.distill["fm_box_head"].losses.items()) == losses and set(losses) == {"l2", "lsh"}


def test_statistics_of_batches_do_not_enter_because_normalisation_is_in_eval_mode(teacher):
    model, _ = built(
        teacher, {"p3": {"METHOD": "FeatureMimicking", "AT": "backbone:p3"}}, student=detector_cfg(norm="BN")
    )
    one, two = batch(((64, 96),)), batch(((64, 96),), seed=1)
    alone = [measure(model, [b])["p3"].squared for b in (one, two)]
    assert measure(model, [one + two])["p3"].squared == pytest.approx(sum(alone) / 2, rel=1e-5)


def test_pairs_of_lists_are_measured_and_methods_without_a_teacher_are_left_out(teacher):
    pairs = {
        "fsp": {"METHOD": "FSP", "AT": [["backbone:p3", "backbone:p4"]]},
        "own": {"METHOD": "FlipSymmetry", "STUDENT": ["roi_heads.box_predictor:0", "backbone@input"]},
    }
    model, labels = built(teacher, pairs, student=detector_cfg(width=4, fpn=24))
    assert list(labels) == ["fsp_p3_p4"]
    assert measure(model, [batch(((64, 96),))])["fsp_p3_p4"].rows == 8 * 12 + 4 * 6


def test_features_of_unequal_width_are_told_by_the_pairs_name(teacher):
    model, _ = built(teacher, {"at": {"METHOD": "AttentionTransfer", "AT": ["backbone:p3"]}})
    with pytest.raises(ValueError, match=r"pair 'at_p3': the student gives \(2, 16, .*\(2, 24, "):
        measure(model, [batch()])
    assert "DistanceMeter" not in str(model.distill)


def test_addresses_take_the_place_of_the_pairs(teacher):
    pairs = {"ft": {"METHOD": "FactorTransfer", "AT": ["backbone:p3"]}}  # its file does not exist
    wide = detector_cfg(width=4, fpn=24)
    at = ["roi_heads.box_head", "backbone:p3=backbone:p3"]
    model, labels = built(teacher, pairs, at, student=wide)
    assert list(labels.values()) == at
    assert all(pair.student_adapter is None for pair in model.distill.values())
    assert set(measure(model, [batch()])) == set(labels)


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("backbone:p3", "^--at: student 'backbone:p3' gives 16 channels"),
        ("backbone:p9", "^--at: address 'backbone:p9'.*p2, p3"),
        ("roi_heads.box_head=roi_heads.head", "^--at: .*Nearest: .*roi_heads.box_head"),
    ],
)
def test_an_address_that_cannot_be_is_told_as_it_was_given(teacher, at, message):
    with pytest.raises(ValueError, match=message):
        built(teacher, {}, [at])


def test_a_config_without_a_distillation_or_with_several_teachers_is_told(teacher):
    with pytest.raises(ValueError, match="nothing to compare"):
        build_for_distances(detector_cfg())
    cfg = distill_cfg(detector_cfg(), teacher, {"fm": BOX_HEAD})
    cfg.DISTILL.TEACHERS.other = cfg.DISTILL.TEACHERS.big.clone()
    with pytest.raises(ValueError, match="--teacher '': name one of .*big, other"):
        build_for_distances(cfg, ["roi_heads.box_head"])
    model, _ = build_for_distances(cfg, ["roi_heads.box_head"], "other")
    assert list(model.teachers) == ["other"]


@pytest.fixture
def narrow():
    cfg = detector_cfg()
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 20
    return cfg


def test_a_students_file_brings_its_adapters(tmp_path, teacher, narrow):
    torch.manual_seed(3)
    model, _ = built(teacher, {"fm": BOX_HEAD}, student=narrow)
    torch.save({"model": model.state_dict()}, tmp_path / "run.pth")
    expected = measure(model, [batch()])
    torch.manual_seed(9)
    other, _ = built(teacher, {"fm": BOX_HEAD}, student=narrow)
    assert measure(other, [batch()]) != expected
    load_student(other, "run", str(tmp_path / "run.pth"))
    assert measure(other, [batch()]) == expected


def test_files_that_do_not_fit_are_told(tmp_path, teacher, narrow):
    model, _ = built(teacher, {"fm": BOX_HEAD}, student=narrow)
    file = str(tmp_path / "run.pth")
    with pytest.raises(FileNotFoundError, match="'run.*of student 'a' do not exist"):
        load_student(model, "a", "run.pth")
    torch.save({"model": build(detector_cfg(width=8)).state_dict()}, file)
    with pytest.raises(ValueError, match="does not fit the config's student"):
        load_student(model, "a", file)
    torch.save({"model": build(narrow).state_dict()}, file)
    with pytest.raises(ValueError, match="student 'a' has no adapter for pair 'fm_box_head'.*--at"):
        load_student(model, "a", file)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["distill.fm_box_head.teacher_fingerprint"] += 1
    torch.save({"model": state}, file)
    with pytest.raises(ValueError, match="'fm_box_head' in .* was trained for another teacher"):
        load_student(model, "a", file)
    state["distill.fm_box_head.teacher_fingerprint"] -= 1
    state["distill.fm_box_head.student_adapter.weight"] = torch.zeros(3, 3)
    torch.save({"model": state}, file)
    with pytest.raises(ValueError, match="'fm_box_head' in .* does not fit.*size mismatch"):
        load_student(model, "a", file)


ROWS = [
    Row(student, pair, Distance(7, m + d, m, d, 0.5, 0.8, 1))
    for pair in ("p3", "roi_heads.box_head=roi_heads.box_head")
    for student, m, d in (("before", 3.0, 5.0), ("after, distilled", 0.5, 1.5))
]


def test_the_csv_and_the_table_hold_the_parts_and_their_shares(tmp_path):
    with open(write_directions(ROWS, tmp_path / "sub" / "d.csv")) as file:
        rows = list(csv.DictReader(file))
    assert [(r["student"], r["pair"]) for r in rows] == [(r.student, r.pair) for r in ROWS]
    assert rows[1] == {
        "student": "after, distilled",
        "pair": "p3",
        "squared": "2",
        "magnitude": "0.5",
        "direction": "1.5",
        "magnitude_share": "0.25",
        "direction_share": "0.75",
        "cosine": "0.5",
        "norm_ratio": "0.8",
        "rows": "7",
        "zero_rows": "1",
    }
    lines = directions_text(ROWS).splitlines()
    assert lines[1].split() == ["p3", "before", "8", "3", "5", "37.5%", "62.5%", "0.5000", "0.800", "7"]


def test_the_picture_has_a_panel_for_each_pair_and_a_stacked_bar_for_each_student(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(directions_report, "save_figure", lambda figure, path: figures.append(figure))
    draw_directions(ROWS, tmp_path / "d.png")
    (figure,) = figures
    assert len(figure.axes) == 2 and "p3" in figure.axes[0].get_title()
    lower, upper = figure.axes[0].containers
    assert [bar.get_height() for bar in lower] == [3.0, 0.5]
    assert [(bar.get_y(), bar.get_height()) for bar in upper] == [(3.0, 5.0), (0.5, 1.5)]
    assert "62% direction" in figure.axes[0].texts[0].get_text()
    figure.savefig(tmp_path / "d.png")
    text = figure.axes[0].get_xticklabels()
    boxes = [label.get_window_extent() for label in text]
    assert boxes[0].x1 < boxes[1].x0 and boxes[0].x0 > 0


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [TOOL, "directions", *map(str, arguments)])
    runpy.run_path(TOOL, run_name="__main__")


def test_the_tool_puts_students_side_by_side(tmp_path, monkeypatch, capsys):
    write_voc(tmp_path / "shapes")
    student, name = detector_cfg(), f"shapes_{tmp_path.name}"
    student.DATASETS.VOC = type(student)({name: {"ROOT": str(tmp_path / "shapes"), "SPLIT": "all"}})
    student.DATASETS.TEST = (name,)
    cfg = distill_cfg(student, save_teacher(tmp_path, detector_cfg(width=8, fpn=24)), {"fm": BOX_HEAD})
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    for seed in (1, 2):
        torch.save({"model": build(student, seed).state_dict()}, tmp_path / f"s{seed}.pth")
    students = [f"--student=number {n}={tmp_path}/s{n}.pth" for n in (1, 2)]
    options = [
        "--config-file",
        tmp_path / "cfg.yaml",
        *students,
        "--batches",
        2,
        "--output",
        tmp_path / "out",
    ]
    run(monkeypatch, *options, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8)
    printed = capsys.readouterr().out
    with open(tmp_path / "out" / "directions.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r["student"], r["pair"], r["rows"]) for r in rows] == [
        (f"number {n}", "fm_box_head", "32") for n in (1, 2)
    ]
    assert (
        all(f"{float(r['squared']):.4g}" in printed for r in rows)
        and rows[0]["squared"] != rows[1]["squared"]
    )
    with Image.open(tmp_path / "out" / "directions.png") as picture:
        assert picture.format == "PNG"
    for wrong, message in ((["--student", "x"], "NAME=WEIGHTS"), (["--at", "backbone:p9"], "--at: .*p2, p3")):
        with pytest.raises(SystemExit, match=f"^analyze.py: .*{message}"):
            run(monkeypatch, *options, *wrong)


def test_the_tool_takes_classifiers(tmp_path, monkeypatch):
    write_image_folder(tmp_path / "images")
    cfg, name = classifier_cfg(), f"images_{tmp_path.name}"
    cfg.DATASETS.IMAGES = type(cfg)({name: {"ROOT": str(tmp_path / "images"), "CLASSES": []}})
    cfg.DATASETS.TRAIN = (name,)
    pairs = {"fm": {"METHOD": "FeatureMimicking", "AT": ["embedding", "backbone:res3"]}}
    distilled = distill_cfg(cfg, save_teacher(tmp_path, classifier_cfg(depth=14)), pairs)
    (tmp_path / "cfg.yaml").write_text(distilled.dump())
    torch.save({"model": build(cfg, 1).state_dict()}, tmp_path / "s.pth")
    run(
        monkeypatch,
        "--config-file",
        tmp_path / "cfg.yaml",
        "--student",
        f"s={tmp_path}/s.pth",
        "--batches",
        1,
        "--output",
        tmp_path,
    )
    with open(tmp_path / "directions.csv") as file:
        rows = {r["pair"]: r["rows"] for r in csv.DictReader(file)}
    assert rows == {"fm_embedding": "4", "fm_res3": str(4 * 4 * 4)}
