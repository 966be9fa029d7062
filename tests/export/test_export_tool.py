"""`tools/export_student.py` as a person runs it."""

import runpy
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from det_distill.classification import ImageClassifier
from det_distill.cli import export
from det_distill.export.formats import FORMATS
from tests.tiny import build, classifier_cfg, detector_cfg

TOOL = str(Path(__file__).parents[2] / "tools" / "export_student.py")


@pytest.fixture
def run(monkeypatch, tmp_path):
    cfg = detector_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    (tmp_path / "cfg.yaml").write_text(cfg.dump())

    def tool(*arguments):
        options = ["--config-file", str(tmp_path / "cfg.yaml"), "--output", str(tmp_path / "out"), *arguments]
        monkeypatch.setattr(sys, "argv", [TOOL, *options])
        runpy.run_path(TOOL, run_name="__main__")

    return tool


def test_it_takes_the_runs_last_checkpoint_and_prints_a_snippet_that_works(run, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    torch.save({"model": build(detector_cfg()).state_dict()}, tmp_path / "run" / "model_final.pth")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    run("--image", str(tmp_path / "photo.png"), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")
    printed = capsys.readouterr().out
    assert printed.count("largest output difference 0 (accepted: 0)\n") == 4
    use, start = printed.split("Use it in Python:\n")[1].split("Start a detector from its backbone:\n")
    names = {"image": image}
    exec(textwrap.dedent(use), names)
    assert len(names["found"]) > 0
    exec(textwrap.dedent(start), names)
    assert names["cfg"].MODEL.WEIGHTS == str(tmp_path / "out" / "backbone.pth")


def test_a_classifiers_photo_is_prepared_as_in_its_tests(run, tmp_path, capsys):
    cfg = classifier_cfg()
    cfg.INPUT.CLASSIFICATION.RESIZE = 10
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    torch.save({"model": build(cfg).state_dict()}, tmp_path / "run.pth")
    Image.fromarray(np.zeros((12, 20), dtype=np.uint8)).save(tmp_path / "gray.png")
    run("--image", str(tmp_path / "gray.png"), "--weights", str(tmp_path / "run.pth"))
    printed = capsys.readouterr().out
    assert printed.count("largest output difference 0 (") == 4 and "# needs det_distill" in printed


@pytest.mark.parametrize("crop", [12, 0])
def test_a_network_that_takes_one_size_of_images_is_checked_on_that(run, tmp_path, capsys, crop):
    cfg = classifier_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_plain_backbone"
    cfg.MODEL.PLAIN.LAYERS, cfg.MODEL.PLAIN.IMAGE_SIZE = ["C3@4", "MP2", "FC6"], 12
    cfg.INPUT.CLASSIFICATION.CROP = crop
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    torch.save({"model": build(cfg).state_dict()}, tmp_path / "run.pth")
    run("--weights", str(tmp_path / "run.pth"))
    assert capsys.readouterr().out.count("largest output difference 0 (") == 4


@pytest.mark.parametrize(("crop", "expected"), [(16, {(16, 16)}), (0, {(192, 256), (144, 192), (96, 205)})])
def test_noise_for_a_classifier_has_the_size_of_its_crops(run, tmp_path, monkeypatch, crop, expected):
    cfg, sizes = classifier_cfg(), []
    cfg.INPUT.CLASSIFICATION.CROP = crop
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    torch.save({"model": build(cfg).state_dict()}, tmp_path / "run.pth")
    given = ImageClassifier.forward

    def forward(self, batch):
        sizes.append(tuple(int(side) for side in batch[0]["image"].shape[1:]))
        return given(self, batch)

    monkeypatch.setattr(ImageClassifier, "forward", forward)
    run("--weights", str(tmp_path / "run.pth"))
    assert set(sizes) == expected


def test_without_a_name_the_formats_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [TOOL, "--to"])
    runpy.run_path(TOOL, run_name="__main__")
    printed = capsys.readouterr().out
    for name in (*FORMATS, "all"):
        assert f"\n  {name:16}" in printed
    assert "  pth             student.pth, the whole student as a detectron2 checkpoint.\n" in printed


def test_overrides_may_follow_the_formats_and_each_photo_is_compared(run, tmp_path, capsys):
    cfg = detector_cfg()
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 60
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    torch.save({"model": build(cfg).state_dict()}, tmp_path / "run.pth")
    for name, size in (("a.png", (96, 64)), ("b.png", (64, 96))):
        Image.fromarray(np.zeros((*size, 3), dtype=np.uint8)).save(tmp_path / name)
    given = ["--image", str(tmp_path / "a.png"), "--image", str(tmp_path / "b.png")]
    run(*given, "--weights", str(tmp_path / "run.pth"), "--to", "pkl", "INPUT.MIN_SIZE_TEST", "32")
    printed = capsys.readouterr().out
    assert "Outputs were compared on the given images, height x width 48 x 32, 24 x 36, 24 x 26." in printed
    assert sorted(p.name for p in (tmp_path / "out").glob("student.*")) == ["student.pkl"]


@pytest.mark.parametrize(
    ("given", "to", "evaluate", "opts"),
    [
        (["--to", "pth", "A.B", "1"], ["pth"], None, ["A.B", "1"]),
        (["--to", "pth", "pkl", "--evaluate", "A.B", "1"], ["pth", "pkl"], "all", ["A.B", "1"]),
        (["--evaluate", "20", "A.B", "1"], None, "20", ["A.B", "1"]),
        (["--evaluate"], None, "all", []),
        (["A.B", "1"], None, None, ["A.B", "1"]),
    ],
)
def test_options_that_may_go_without_a_value_leave_the_overrides_alone(given, to, evaluate, opts):
    args = export.parser().parse_args(given)
    export._give_back(args)
    assert (args.to, args.evaluate, args.opts) == (to, evaluate, opts)


def test_mistakes_end_in_one_sentence(run):
    with pytest.raises(
        SystemExit, match=r"export_student.py: the checkpoint .*model_final.pth' does not exist"
    ):
        run()
    with pytest.raises(SystemExit, match=r"export_student.py: .*NO_SUCH_KEY"):
        run("MODEL.NO_SUCH_KEY", "1")
    with pytest.raises(SystemExit, match=r"export_student.py: .*photo.png"):
        run("--image", "photo.png")
    with pytest.raises(SystemExit, match=r"export_student.py: there is no export format 'onxn': choose from"):
        run("--to", "onxn")
    with pytest.raises(SystemExit, match=r"export_student.py: --evaluate 'ten': give a number of images"):
        run("--evaluate", "ten")
