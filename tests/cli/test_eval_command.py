"""`det-distill eval`: weights or detections, one or several, in one table and one file."""

import json

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from det_distill.cli.evaluate import _named
from det_distill.cli.main import main
from det_distill.evaluation.measuring import Measured
from det_distill.evaluation.results_table import results_text
from tests.tiny import (
    build,
    classifier_cfg,
    detector_cfg,
    distill_cfg,
    save_teacher,
    write_image_folder,
    write_voc,
)


@pytest.fixture
def shapes(tmp_path):
    """The config of a detector with data and a run's folder; nothing is trained."""
    voc = write_voc(tmp_path / "voc")
    cfg = detector_cfg()
    for name in ("eval_shapes", "eval_others"):
        cfg.DATASETS.VOC[name] = CfgNode({"ROOT": str(voc), "SPLIT": "all"})
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("nowhere",), ("eval_shapes",)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    (tmp_path / "run").mkdir()
    yield cfg
    for name in ("eval_shapes", "eval_others"):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def evaluate(tmp_path, cfg, *words):
    """What is in the results' file."""
    (tmp_path / "cfg.yaml").write_text(cfg.dump())
    main(["eval", "--config-file", str(tmp_path / "cfg.yaml"), *map(str, words)])
    out = words[words.index("--output") + 1] if "--output" in words else tmp_path / "run/eval"
    return json.loads((tmp_path / out / "results.json").read_text())


def save(cfg, file, seed=0):
    torch.save({"model": build(cfg, seed).state_dict()}, file)
    return file


def test_the_runs_last_checkpoint_is_measured_by_both_rules_without_its_training_data(
    shapes, tmp_path, capsys
):
    save(shapes, tmp_path / "run/model_0000009.pth")
    found = evaluate(tmp_path, shapes)
    assert found["count_difficult"] is False
    (row,) = found["measured"]
    assert (row["name"], row["data"]) == ("model_0000009", "eval_shapes")
    assert {"bbox/AP", "bbox/APl", "voc/AP75", "voc/AP50-11point-disc"} <= set(row["results"])
    printed = capsys.readouterr().out
    assert "COCO rules" in printed and "VOC rules" in printed and "disc" in printed and "square" in printed
    assert not list((tmp_path / "run/eval").glob("*.partial"))
    save(shapes, tmp_path / "run/model_final.pth")
    assert evaluate(tmp_path, shapes)["measured"][0]["name"] == "run"


def test_detections_give_the_numbers_of_the_network_that_found_them(shapes, tmp_path):
    weights = save(shapes, tmp_path / "run/model_final.pth")
    own = evaluate(tmp_path, shapes, "--weights", f"mine={weights}", "--data", "eval_others")
    file = tmp_path / "run/eval/mine/eval_others/inference/coco_instances_results.json"
    assert len(json.loads(file.read_text())) > 0
    weights.unlink()
    again = evaluate(tmp_path, shapes, "--detections", file, "--output", tmp_path / "again")
    assert again["measured"][0]["results"] == own["measured"][0]["results"]
    assert (again["measured"][0]["name"], again["measured"][0]["data"]) == ("eval_others", "eval_shapes")


def test_difficult_objects_are_counted_on_request(shapes, tmp_path):
    xml = tmp_path / "voc/Annotations/im000.xml"
    xml.write_text(xml.read_text().replace("<difficult>0", "<difficult>1"))
    (tmp_path / "none.json").write_text("[]")
    file = ("--detections", tmp_path / "none.json")
    assert evaluate(tmp_path, shapes, *file)["count_difficult"] is False
    assert evaluate(tmp_path, shapes, *file, "--count-difficult")["count_difficult"] is True
    from det_distill.engine import load_config

    cfg = load_config(str(tmp_path / "cfg.yaml"), ["TEST.COUNT_DIFFICULT", "True"])
    assert cfg.TEST.COUNT_DIFFICULT is True


def test_of_a_distillation_the_student_is_measured_without_its_teacher(shapes, tmp_path):
    teacher = save_teacher(tmp_path, detector_cfg(width=8))
    weights = save(shapes, tmp_path / "run/model_final.pth")
    alone = evaluate(tmp_path, shapes)["measured"]
    cfg = distill_cfg(shapes, teacher, {"fm": {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"]}})
    (tmp_path / "teacher.pth").unlink()
    assert evaluate(tmp_path, cfg, "--weights", weights)["measured"] == alone


def test_several_weights_of_a_classifier_come_into_one_table(tmp_path, capsys):
    cfg = classifier_cfg()
    cfg.DATASETS.IMAGES.eval_images = CfgNode({"ROOT": str(write_image_folder(tmp_path / "images"))})
    cfg.DATASETS.TEST = ("eval_images",)
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    words = [
        w for seed in (0, 1) for w in ("--weights", f"s{seed}={save(cfg, tmp_path / f'{seed}.pth', seed)}")
    ]
    found = evaluate(tmp_path, cfg, *words)["measured"]
    assert [row["name"] for row in found] == ["s0", "s1"]
    assert found[0]["results"]["classification/nll"] != found[1]["results"]["classification/nll"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line[:1] == "s" and line[1].isdigit()] == ["s0", "s1"]
    assert any(line.startswith("disc: s1") for line in lines)


def test_what_cannot_be_measured_is_told_in_one_sentence(shapes, tmp_path):
    weights = save(shapes, tmp_path / "a.pth")
    cfg = str(tmp_path / "cfg.yaml")
    (tmp_path / "broken.json").write_text("[{]")
    for words, message in [
        ((), "OUTPUT_DIR '.*run' has no checkpoint to measure: name the trained file with --weights"),
        (("--weights", "gone.pth"), "'gone.pth': there is no such file"),
        (("--weights", weights, "--weights", weights), "two files have the name 'a'"),
        (("--weights", weights, "--data", "eval_shaps"), "not registered. Nearest names: eval_shapes"),
        (("--weights", weights, "MODEL.ROI_HEADS.NUM_CLASSES", "3"), "has 2 classes .* built for 3"),
        (("--weights", weights, "MODEL.FPN.OUT_CHANNELS", "8"), "a.pth does not give all tensors"),
        (("--weights", weights, "DATASETS.TEST", "()"), "DATASETS.TEST of the config is empty"),
        (("--weights", weights, "--detections", "x.json"), "one or the other"),
        (("MODEL.WEIGHTS", weights), "name the file to measure with --weights"),
        (("--detections", tmp_path / "broken.json"), "broken.json is not JSON"),
        (
            ("--detections", "a.json", "--data", "eval_shapes", "--data", "eval_others"),
            "choose one with --data",
        ),
    ]:
        with pytest.raises(SystemExit, match=f"^det-distill eval: .*{message}"):
            evaluate(tmp_path, shapes, *words)
    assert cfg and not (tmp_path / "run/eval/results.json").exists()


def test_a_file_without_a_name_is_called_by_its_run(tmp_path):
    files = {
        "runs/a/model_final.pth": "a",
        "runs/a/inference/coco_instances_results.json": "a",
        "runs/a/model_0000009.pth": "model_0000009",
        "mine=runs/a/model_final.pth": "mine",
        "lr=1/b.pth": "lr",
        "runs/lr=1/b.pth": "b",
    }
    assert {word: _named([word])[0].name for word in files} == files
    (tmp_path / "lr=1").mkdir()
    (tmp_path / "lr=1/b.pth").touch()
    assert _named([str(tmp_path / "lr=1/b.pth")])[0].file == str(tmp_path / "lr=1/b.pth")


def test_what_does_not_occur_is_a_dash_and_columns_stand_below_their_headings():
    results = {"bbox/AP": 1.0, "bbox/AP-cat": 2.0, "voc/AP50": np.nan, "voc/AP50-cat": 100.0}
    text = results_text([Measured("long name", "f", "d", results), Measured("b", "f", "d", results)])
    summary, classes = text.split("\n\n")[1:]
    rules, heads, first, second = summary.split("\n")
    assert len({len(line) for line in (rules, heads, first, second)}) == 1
    assert first[: heads.index("AP") + 2].endswith("1.00")
    assert first.split("|")[1].split() == ["-"] * 4
    assert [line.split("  ")[0] for line in classes.split("\n")[2:]] == ["cat: long name", "cat: b"]
    assert "100.00" in classes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "foo"], r"MODEL\.DEVICE 'foo': choose cpu, cuda or cuda:N"),
        (["--output", __file__], r"test_eval_command\.py is a file: name a folder"),
    ],
)
def test_a_device_and_a_folder_are_checked_before_anything_is_measured(tmp_path, shapes, words, message):
    with pytest.raises(SystemExit, match=message):
        evaluate(tmp_path, shapes, "--weights", "a/model_final.pth", *words)


@pytest.mark.parametrize("option", ["--weights", "--output"])
def test_an_option_that_an_unset_variable_left_empty_is_an_error(tmp_path, shapes, option, capsys):
    with pytest.raises(SystemExit):
        evaluate(tmp_path, shapes, option, "")
    assert f"{option} is empty" in capsys.readouterr().err
