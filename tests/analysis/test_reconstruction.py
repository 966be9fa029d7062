"""The reconstruction report: equal conditions for all networks, what is written, what is refused."""

import csv
import math
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from det_distill.adapters import Paraphraser
from det_distill.analysis import reconstruction
from det_distill.analysis.batches import check_data, labelled_batches, shuffled_batches
from det_distill.analysis.named import Network, parse_networks, parse_students
from det_distill.analysis.reconstruction import (
    Curve,
    curves_text,
    draw_curves,
    reconstruction_curve,
    write_curves,
)
from det_distill.engine import load_config
from det_distill.teachers import RCNNTeacher, Teacher
from tests.tiny import batch, build, classifier_cfg, detector_cfg, save_teacher, write_image_folder, write_voc

TOOL = str(Path(__file__).parents[2] / "tools" / "analyze.py")


class Blocks(nn.Module):
    """A network whose feature map is its images."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.map, self.vector = nn.Identity(), nn.Flatten()

    def forward(self, batch):
        return self.vector(self.map(images(batch) * self.weight))


def images(batch):
    return torch.stack([x["image"] for x in batch])


def maps(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [[{"image": torch.rand(4, 5, 5, generator=generator)} for _ in range(2)] for _ in range(count)]


def curve(count=12, **options):
    return reconstruction_curve("net", Teacher(Blocks()), "map", maps(count), **options)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_first_errors_are_those_of_an_untrained_paraphraser_of_the_seed(p, scaled):
    torch.manual_seed(5)
    raw, relative = Paraphraser(4, 0.75).reconstruction_loss(images(maps(1)[0]), p=p)
    found = curve(rate=0.75, p=p, scaled=scaled, seed=5)
    assert found.raw[0] == pytest.approx(raw.item()) and found.scaled[0] == pytest.approx(relative.item())


@pytest.mark.parametrize("scaled", [False, True])
def test_raw_and_scaled_differ_by_the_spread_of_each_batch_whichever_is_trained_on(scaled):
    found = curve(scaled=scaled)
    spreads = [images(x).std(correction=0).item() for x in maps(12)]
    assert [r / s for r, s in zip(found.raw, found.scaled, strict=True)] == pytest.approx(spreads, rel=1e-4)


def test_equal_networks_have_equal_curves_and_the_error_falls():
    one, two = curve(count=60), curve(count=60)
    assert one == two and len(one.raw) == 60
    assert one.final()[1] < 0.7 * one.scaled[0]
    assert curve(seed=1).raw[0] != one.raw[0]


def test_the_random_stream_and_the_network_are_left_as_they_were():
    network = RCNNTeacher(build(detector_cfg(norm="BN")))
    before = {k: v.clone() for k, v in network.model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    found = reconstruction_curve("net", network, "backbone:p3", [batch(), batch(seed=1)], lr=0.01)
    assert torch.rand(1) == expected and all(math.isfinite(e) for e in found.raw + found.scaled)
    assert all(torch.equal(v, before[k]) for k, v in network.model.state_dict().items())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("backbone:p9", "p2, p3"),
        ("backbone.bottom", "Nearest: backbone"),
        ("roi_heads.box_head", "no map of the whole image"),
        ("backbone", "gives dict"),
    ],
)
def test_an_address_without_a_map_is_told_with_what_is_wanted(address, message):
    network = RCNNTeacher(build(detector_cfg()))
    with pytest.raises((ValueError, RuntimeError), match=message):
        reconstruction_curve("net", network, address, [batch()])


def test_vectors_and_no_batches_are_told():
    with pytest.raises(ValueError, match=r"\(2, 100\); a paraphraser needs a feature map"):
        reconstruction_curve("net", Teacher(Blocks()), "vector", maps(1))
    with pytest.raises(ValueError, match="no batch"):
        curve(count=0)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_training_that_diverges_ends_there_with_errors_that_are_no_numbers(scaled):
    found = curve(lr=1e20, scaled=scaled)
    assert found.diverged and len(found.raw) == len(found.scaled) < 12
    assert all(math.isnan(e) for e in (found.raw[-1], found.scaled[-1], *found.final()))
    assert all(math.isfinite(e) for e in found.raw[:-1] + found.scaled[:-1])
    assert not curve().diverged


def test_a_diverged_network_stands_in_table_csv_and_picture_beside_the_others(tmp_path, monkeypatch):
    curves = [Curve("good", (4.0,) * 30, (1.0,) * 30), Curve("bad", (9.0, math.nan), (2.0, math.nan))]
    for listed in (curves, curves[::-1]):
        text = curves_text(listed)
        assert re.search(r"^good +4 +1$", text, re.M) and re.search(
            r"^bad +nan +nan  diverged in iteration 2$", text, re.M
        )
        assert "last 3 iterations" in text
    with open(write_curves(curves, tmp_path / "r.csv")) as file:
        rows = list(csv.reader(file))
    assert rows[-2:] == [["bad", "1", "9", "2", ""], ["bad", "2", "nan", "nan", "diverged"]]
    figures = []
    monkeypatch.setattr(reconstruction, "save_figure", lambda figure, path: figures.append(figure))
    for listed in (curves, [Curve("bad", (math.nan,), (math.nan,))]):
        draw_curves(listed, tmp_path / "r.png", address="x")
    for figure in figures:
        figure.savefig(tmp_path / "r.png")
    assert [t.get_text() for t in figures[0].legends[0].get_texts()] == ["good", "bad (diverged)"]


def test_the_last_error_is_the_mean_of_the_last_tenth():
    found = Curve("net", tuple(range(20)), (1.0,) * 18 + (3.0, 5.0))
    assert found.final() == (18.5, 4.0)
    assert Curve("net", (2.0,), (1.0,)).final() == (2.0, 1.0)
    assert "18.5" in curves_text([found]) and "last 2 iterations" in curves_text([found])


def test_the_csv_has_a_line_for_each_network_and_iteration(tmp_path):
    curves = [Curve("a", (4.0, 2.0), (1.0, 0.5)), Curve("b, c", (3.0, 3.0), (0.25, 0.125))]
    with open(write_curves(curves, tmp_path / "sub" / "r.csv")) as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["network", "iteration", "raw", "scaled", "note"]
    assert rows[1:3] == [["a", "1", "4", "1", ""], ["a", "2", "2", "0.5", ""]]
    assert rows[3:] == [["b, c", "1", "3", "0.25", ""], ["b, c", "2", "3", "0.125", ""]]


def test_the_picture_has_two_logarithmic_panels_and_names_every_network(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(reconstruction, "save_figure", lambda figure, path: figures.append(figure))
    curves = [Curve(f"net {n}", (4.0, 2.0), (1.0, 0.5)) for n in range(9)]
    draw_curves(curves, tmp_path / "r.png", address="backbone:p3", p=2)
    (figure,) = figures
    assert [axis.get_yscale() for axis in figure.axes] == ["log", "log"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"net {n}" for n in range(9)]
    assert "backbone:p3" in figure.get_suptitle() and "variance" in figure.axes[1].get_title()
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines[1::2]}
    assert len(looks) == 9
    figure.savefig(tmp_path / "r.png")
    inside = [axis.get_window_extent().width for axis in figure.axes]
    assert min(inside) > 0.3 * figure.bbox.width


def test_the_report_says_how_to_install_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw_curves([Curve("a", (1.0,), (1.0,))], "r.png", address="x")


def test_networks_and_students_are_named_on_the_command_line():
    assert parse_networks(["a=c.yaml:w.pth", "b=zoo/x.yaml:https://host/w.pkl"]) == [
        Network("a", "c.yaml", "w.pth"),
        Network("b", "zoo/x.yaml", "https://host/w.pkl"),
    ]
    assert parse_students(["plain=out/a.pth"]) == {"plain": "out/a.pth"}
    for wrong, message in (
        ("w.pth", "NAME=CONFIG:WEIGHTS"),
        ("a=c.yaml", "no file of weights"),
        ("a=:w", "no config"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_networks([wrong])
    with pytest.raises(ValueError, match="NAME=WEIGHTS"):
        parse_students(["=w.pth"])
    with pytest.raises(ValueError, match="two networks are named 'a'"):
        parse_students(["a=1", "a=2"])


@pytest.fixture
def data(tmp_path):
    """A config file with six pictures, and its text."""
    write_voc(tmp_path / "shapes")
    cfg = detector_cfg()
    cfg.DATASETS.VOC = type(cfg)(
        {f"shapes_{tmp_path.name}": {"ROOT": str(tmp_path / "shapes"), "SPLIT": "all"}}
    )
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (f"shapes_{tmp_path.name}",)
    return cfg


def configured(tmp_path, cfg):
    (tmp_path / "data.yaml").write_text(cfg.dump())
    return load_config(str(tmp_path / "data.yaml"))


def test_batches_are_the_same_for_every_network_and_every_image_comes_before_any_comes_again(tmp_path, data):
    cfg = configured(tmp_path, data)
    names = cfg.DATASETS.TRAIN

    def files(seed):
        loader = shuffled_batches(cfg, names, 4, seed=seed)
        return [[Path(x["file_name"]).name for x in b] for b in loader]

    assert files(0) == files(0) != files(1)
    assert [len(b) for b in files(0)] == [2] * 4
    assert len({f for b in files(0)[:3] for f in b}) == 6
    labelled = [[x["file_name"] for x in b] for b in labelled_batches(cfg, names, 4, seed=1)]
    assert labelled == [[x["file_name"] for x in b] for b in labelled_batches(cfg, names, 4, seed=1)]


def test_a_data_set_that_is_not_there_is_told_with_those_that_are(tmp_path, data):
    cfg = configured(tmp_path, data)
    (name,) = cfg.DATASETS.TRAIN
    assert check_data(cfg, ()) == check_data(cfg, [name]) == (name,)
    with pytest.raises(ValueError, match=rf"unknown data set shape; the config has: {name}$"):
        check_data(cfg, ["shape"])
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="name a data set with --data"):
        check_data(cfg, ())


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [TOOL, "reconstruction", *map(str, arguments)])
    runpy.run_path(TOOL, run_name="__main__")


def test_the_tool_compares_two_detectors_and_writes_what_it_prints(tmp_path, data, monkeypatch, capsys):
    small, large = (
        save_teacher(tmp_path, data, "small"),
        save_teacher(tmp_path, detector_cfg(width=8), "large"),
    )
    networks = [f"--network={n}={t['CONFIG']}:{t['WEIGHTS']}" for n, t in (("one", small), ("two", large))]
    options = ["--at", "backbone:p3", "--iterations", 3, "--lr", 0.01, "--output", tmp_path / "out"]
    run(monkeypatch, *networks, *options, "SOLVER.IMS_PER_BATCH", 1)
    printed = capsys.readouterr().out
    with open(tmp_path / "out" / "reconstruction.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r["network"], r["iteration"]) for r in rows] == [
        (n, str(i)) for n in ("one", "two") for i in (1, 2, 3)
    ]
    assert f"{float(rows[2]['raw']):.4g}" in printed and f"{float(rows[5]['scaled']):.4g}" in printed
    with Image.open(tmp_path / "out" / "reconstruction.png") as picture:
        assert picture.format == "PNG" and picture.width > 1.5 * picture.height


def test_a_network_that_diverges_leaves_the_others_results_and_an_exit_that_says_so(
    tmp_path, data, monkeypatch, capsys
):
    good, loud = save_teacher(tmp_path, data, "good"), save_teacher(tmp_path, data, "loud")
    state = torch.load(loud["WEIGHTS"])
    state["model"]["backbone.fpn_output3.weight"] *= 1e12
    torch.save(state, loud["WEIGHTS"])
    networks = [f"--network={n}={t['CONFIG']}:{t['WEIGHTS']}" for n, t in (("loud", loud), ("good", good))]
    options = ["--at", "backbone:p3", "--iterations", 4, "--lr", 0.01, "--output", tmp_path / "out"]
    with pytest.raises(
        SystemExit, match=r"^analyze.py: .* diverged for loud \(1 of 2\).*--lr, now 0.01"
    ) as end:
        run(monkeypatch, *networks, *options)
    assert end.value.code  # a text: the exit status is 1
    with open(tmp_path / "out" / "reconstruction.csv") as file:
        rows = list(csv.DictReader(file))
    good_rows = [r for r in rows if r["network"] == "good"]
    assert [r["iteration"] for r in good_rows] == ["1", "2", "3", "4"]
    assert all(math.isfinite(float(r["raw"])) and not r["note"] for r in good_rows)
    assert [r["note"] for r in rows if r["network"] == "loud"][-1] == "diverged"
    assert "diverged in iteration" in capsys.readouterr().out
    assert (tmp_path / "out" / "reconstruction.png").is_file()


@pytest.mark.parametrize(
    ("option", "number"),
    [
        *[(o, n) for o in ("--batch", "--iterations") for n in ("0", "-1")],
        ("--seed", "-1"),
        *[(o, n) for o in ("--lr", "--rate") for n in ("0", "-0.5", "nan", "inf")],
    ],
)
def test_a_number_that_makes_no_sense_is_told_with_its_option(monkeypatch, option, number):
    with pytest.raises(SystemExit, match=f"^analyze.py: {option} {number}: must be (at least [01]|above 0)"):
        run(monkeypatch, "--network", "a=b.yaml:c.pth", "--at", "x", f"{option}={number}")


def test_the_other_reports_number_of_batches_is_told_too(monkeypatch):
    arguments = ["directions", "--config-file", "a.yaml", "--student", "b=c.pth", "--batches", "0"]
    monkeypatch.setattr(sys, "argv", [TOOL, *arguments])
    with pytest.raises(SystemExit, match=r"^analyze.py: --batches 0: must be at least 1"):
        runpy.run_path(TOOL, run_name="__main__")


def test_the_tool_takes_classifiers(tmp_path, monkeypatch, capsys):
    write_image_folder(tmp_path / "images")
    cfg = classifier_cfg()
    name = f"images_{tmp_path.name}"
    cfg.DATASETS.IMAGES = type(cfg)({name: {"ROOT": str(tmp_path / "images"), "CLASSES": []}})
    cfg.DATASETS.TRAIN = (name,)
    network = save_teacher(tmp_path, cfg)
    options = ["--at", "backbone:res4", "--iterations", 2, "--scaled", "--p", 2, "--output", tmp_path]
    run(monkeypatch, "--network", f"net={network['CONFIG']}:{network['WEIGHTS']}", *options)
    assert "net" in capsys.readouterr().out and (tmp_path / "reconstruction.png").is_file()


def test_the_tools_mistakes_are_one_sentence(tmp_path, data, monkeypatch):
    network = save_teacher(tmp_path, data)
    named = f"net={network['CONFIG']}:{network['WEIGHTS']}"
    for arguments, message in (
        (["--network", "net=none.yaml:w.pth", "--at", "x"], "none.yaml"),
        (
            ["--network", f"net={network['CONFIG']}:none.pth", "--at", "backbone:p3"],
            "none.pth.* do not exist",
        ),
        (["--network", named, "--at", "backbone:p9"], "p2, p3"),
        (["--network", named, "--at", "backbone:p3", "--iterations", "0"], "must be at least 1"),
        (["--network", named, "--at", "backbone:p3", "--data", "no"], "unknown data set no"),
        (["--network", named, "--at", "backbone:p3", "SOLVER.NONE", "1"], "SOLVER.NONE|NONE"),
    ):
        with pytest.raises(SystemExit, match=f"^analyze.py: .*({message})"):
            run(monkeypatch, *arguments)
