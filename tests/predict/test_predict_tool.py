"""`tools/predict.py` as a person runs it."""

import json
import runpy
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from det_distill.cli import predict
from det_distill.predict import video as videos
from det_distill.predictors import load_predictor
from tests.tiny import CLASSES, build, classifier_cfg, detector_cfg

ROOT = Path(__file__).parents[2]
TOOL = str(ROOT / "tools" / "predict.py")


def photo(path, size=(60, 90), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def saved(folder, cfg):
    folder.mkdir()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.01
    (folder / "config.yaml").write_text(cfg.dump())
    state = {"model": build(cfg).state_dict(), "network": {"classes": list(CLASSES)}}
    torch.save(state, folder / "student.pth")
    return folder


@pytest.fixture
def model(tmp_path):
    return saved(tmp_path / "model", detector_cfg())


@pytest.fixture
def run(monkeypatch, tmp_path, model):
    def tool(*inputs, output="out", model=model):
        options = ["--model", str(model), "--output", str(tmp_path / output), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [TOOL, *options, *map(str, inputs)])
        runpy.run_path(TOOL, run_name="__main__")
        return json.loads((tmp_path / output / "predictions.json").read_text())

    return tool


def test_a_folder_gives_a_picture_of_each_image_and_one_file_that_says_what_it_is(
    run, tmp_path, model, capsys
):
    for i, name in enumerate(("a.png", "b.jpg")):
        photo(tmp_path / "in" / name, seed=i)
    found = run(tmp_path / "in", "--threshold", "0.3")
    assert found["model"]["file"] == str(model / "student.pth") and len(found["model"]["sha256"]) == 64
    assert found["model"]["kind"] == "detector" and found["classes"] == list(CLASSES)
    assert found["score_threshold"] == 0.3 and found["failed"] == {}
    entry = found["images"][str(tmp_path / "in" / "a.png")]
    assert (entry["width"], entry["height"], entry["picture"]) == (90, 60, "a.png")
    expected = load_predictor(model)(np.asarray(Image.open(tmp_path / "in" / "a.png")))
    expected = expected[expected.scores >= 0.3]
    assert len(entry["detections"]) == len(expected) > 0
    for one, box, score, index in zip(
        entry["detections"],
        expected.pred_boxes.tensor.tolist(),
        expected.scores.tolist(),
        expected.pred_classes.tolist(),
        strict=True,
    ):
        assert one["box"] == pytest.approx(box, abs=6e-4) and one["score"] == pytest.approx(score, abs=1e-6)
        assert (one["class"], one["class_id"]) == (CLASSES[index], index)
    assert Image.open(tmp_path / "out" / "a.png").format == "PNG"
    assert Image.open(tmp_path / "out" / "b.jpg").format == "JPEG"
    printed = capsys.readouterr().out
    assert f"2/2 {tmp_path / 'in' / 'b.jpg'}: " in printed and "(images: 2) and the pictures in" in printed


def test_broken_files_are_told_do_not_lose_the_others_and_set_the_exit_status(run, tmp_path, capsys):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("no image")
    photo(tmp_path / "in" / "c.png")
    with pytest.raises(SystemExit) as left:
        run(tmp_path / "in")
    assert left.value.code == 1
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(p).name for p in found["images"]] == ["a.png", "c.png"]
    assert list(found["failed"]) == [str(tmp_path / "in" / "b.png")]
    captured = capsys.readouterr()
    assert "1 of 3 inputs failed" in captured.err and "cannot identify image file" in captured.err


def test_no_pictures_writes_json_only_and_classes_can_be_named(run, tmp_path):
    photo(tmp_path / "a.png")
    found = run(tmp_path / "a.png", "--no-pictures", "--threshold", "0", "--classes", "round", "cornered")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]
    (entry,) = found["images"].values()
    assert "picture" not in entry and {d["class"] for d in entry["detections"]} == {"round", "cornered"}


def test_a_model_that_cuts_above_the_threshold_says_so(run, tmp_path, capsys):
    photo(tmp_path / "a.png")
    found = run(tmp_path / "a.png", "--threshold", "0.001")
    assert "itself leaves out scores below 0.01" in capsys.readouterr().out
    assert found["score_threshold"] == 0.01


def test_a_classifiers_five_best_classes_are_written_best_first(run, tmp_path):
    model = saved(tmp_path / "classifier", classifier_cfg())
    photo(tmp_path / "a.png", (8, 8))
    photo(tmp_path / "tiny.png", (4, 4))
    with pytest.raises(SystemExit):
        run(tmp_path / "a.png", tmp_path / "tiny.png", model=model)
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    (entry,) = found["images"].values()
    assert [c["class"] for c in entry["classes"]] != [] and found["model"]["kind"] == "classifier"
    shares = [c["probability"] for c in entry["classes"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-5)
    assert "4 x 4" in found["failed"][str(tmp_path / "tiny.png")]
    assert Image.open(tmp_path / "out" / "a.png").size[0] == 320


def test_a_threshold_for_a_classifier_is_refused_in_one_line(run, tmp_path):
    model = saved(tmp_path / "classifier", classifier_cfg())
    photo(tmp_path / "a.png", (8, 8))
    with pytest.raises(SystemExit, match=r"student\.pth is a classifier.*omit --threshold$"):
        run(tmp_path / "a.png", "--threshold", "0.5", model=model)
    assert not (tmp_path / "out").exists()


def test_of_an_animated_image_it_is_told_that_only_the_first_frame_was_looked_at(run, tmp_path, capsys):
    frames = [Image.new("RGB", (90, 60), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    photo(tmp_path / "b.gif")
    moving, still = run(tmp_path / "a.gif", tmp_path / "b.gif")["images"].values()
    assert moving["note"] == "only the first of its 3 frames was looked at" and "note" not in still
    assert capsys.readouterr().out.count(f"; {moving['note']}\n") == 1


def test_letters_that_cannot_be_drawn_are_told_once_and_stand_in_the_json(run, tmp_path, capsys):
    photo(tmp_path / "a.png")
    found = run(tmp_path / "a.png", "--classes", "ü \U00020000", "b")
    assert found["classes"] == ["ü \U00020000", "b"]
    assert capsys.readouterr().out.count("font of the pictures lacks \U00020000: ") == 1


def write_video(path, count=6, rate=Fraction(12)):
    with videos.VideoWriter(path, rate) as video:
        for i in range(count):
            pixels = np.random.default_rng(i).integers(0, 256, (64, 96, 3), dtype=np.uint8)
            video.write(pixels, float(i / rate))
    return path


def test_a_video_gives_a_video_and_the_boxes_of_every_frame_with_its_time(run, tmp_path):
    pytest.importorskip("av")
    path = write_video(tmp_path / "clip.mp4")
    found = run(path, "--threshold", "0.3")
    (entry,) = found["videos"].values()
    assert (entry["width"], entry["height"], entry["frames_per_second"]) == (96, 64, 12.0)
    assert [f["frame"] for f in entry["frames"]] == list(range(6))
    assert [f["seconds"] for f in entry["frames"]] == pytest.approx([i / 12 for i in range(6)], abs=1e-4)
    assert all(f["detections"] for f in entry["frames"])
    with videos.VideoReader(tmp_path / "out" / entry["picture"]) as drawn:
        assert drawn.rate == 12 and len(list(drawn)) == 6


def test_one_frame_is_one_frame(run, tmp_path, capsys):
    pytest.importorskip("av")
    run(write_video(tmp_path / "clip.mp4", count=1))
    assert "clip.mp4: 1 frame\n" in capsys.readouterr().out


def test_of_a_video_that_is_cut_off_the_frames_before_are_kept(run, tmp_path, monkeypatch):
    pytest.importorskip("av")
    path = write_video(tmp_path / "clip.mp4")
    frames = videos.VideoReader.__iter__

    def cut(self):
        for frame in frames(self):
            if frame.number == 4:
                raise ValueError("frames behind the first 4 cannot be read")
            yield frame

    monkeypatch.setattr(videos.VideoReader, "__iter__", cut)
    with pytest.raises(SystemExit):
        run(path)
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    (entry,) = found["videos"].values()
    assert len(entry["frames"]) == 4 and "behind the first 4" in entry["incomplete"]
    assert list(found["failed"]) == [str(path)] and (tmp_path / "out" / "clip.mp4").exists()


def test_a_video_without_pyav_is_told_before_anything_is_done(run, tmp_path, monkeypatch):
    photo(tmp_path / "a.png")
    (tmp_path / "clip.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SystemExit, match=r"^predict\.py: videos need PyAV"):
        run(tmp_path / "a.png", tmp_path / "clip.mp4")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_command_goes_on_where_it_stopped(run, tmp_path, monkeypatch, capsys):
    for i in range(3):
        photo(tmp_path / "in" / f"{i}.png", seed=i)
    read, names = predict.predict_files.__globals__["read_rgb"], []

    def interrupted(path):
        names.append(path.name)
        if path.name == "1.png" and names.count("1.png") == 1:
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setitem(predict.predict_files.__globals__, "read_rgb", interrupted)
    with pytest.raises(SystemExit, match="130"):
        run(tmp_path / "in")
    assert "the same command goes on from there" in capsys.readouterr().err
    assert not (tmp_path / "out" / "predictions.json").exists()
    found = run(tmp_path / "in")
    assert names == ["0.png", "1.png", "1.png", "2.png"] and len(found["images"]) == 3
    assert "0.png: done before the interruption" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.jpg"], "there is no file or folder 'absent.jpg'"),
        (["{in}", "--threshold", "7"], "a threshold of 7: scores are from 0 to 1"),
        (["{in}", "--classes", "one"], "1 class names (one) for"),
        (["{in}", "--device", "warp"], "device 'warp'"),
        (["{in}", "--opts", "MODEL.NO_KEY", "1"], "unknown key MODEL.NO_KEY"),
    ],
)
def test_what_a_person_did_wrong_is_told_in_one_line(run, tmp_path, words, message):
    photo(tmp_path / "in" / "a.png")
    with pytest.raises(SystemExit) as left:
        run(*(w.replace("{in}", str(tmp_path / "in")) for w in words))
    assert str(left.value.code).startswith("predict.py: ") and message in str(left.value.code)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"), [([""], "an INPUT is empty"), (["a.png", "--output", ""], "--output is empty")]
)
def test_an_empty_name_is_refused_and_not_taken_as_the_current_folder(
    run, tmp_path, monkeypatch, capsys, words, message
):
    photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as left:
        run(*words)
    told = capsys.readouterr().err
    assert left.value.code == 2 and message in told and told.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
