"""The exported files give back the student, exactly, in stock detectron2; nothing half-made is left."""

import json
import os

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from safetensors import safe_open
from safetensors.torch import load_file

from det_distill.export import ExportError, check, export_student, plain_files
from tests.tiny import build, detector_cfg, distill_cfg

PAIRS = {"fm": {"METHOD": "FeatureMimicking", "AT": ["backbone:p3"], "ADAPTER": "linear"}}
WEIGHTS = ["backbone.pth", "backbone.safetensors", "student.pth", "student.safetensors"]
FILES = sorted([*WEIGHTS, "card.md", "config.yaml", "export.json"])


def small():
    """A detector of few proposals."""
    cfg = detector_cfg(norm="BN")
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 60
    return cfg


@pytest.fixture(scope="module")
def student():
    return build(small(), seed=5)


@pytest.fixture(scope="module")
def cfg():
    """A distillation whose teacher's files are nowhere."""
    return distill_cfg(small(), {"CONFIG": "nowhere.yaml", "WEIGHTS": "nowhere.pth"}, PAIRS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, student):
    """What a distilled run saves: the student's keys, pairs' keys, and a trainer's state."""
    path = tmp_path_factory.mktemp("run") / "model_final.pth"
    pairs = {"distill.fm_p3.student_adapter.weight": torch.ones(2)}
    torch.save({"model": {**student.state_dict(), **pairs}, "iteration": 3, "optimizer": {}}, path)
    return str(path)


@pytest.fixture(scope="module")
def export(tmp_path_factory, cfg, checkpoint):
    return export_student(cfg, checkpoint, tmp_path_factory.mktemp("out") / "new" / "student")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_checkpoint_holds_the_students_tensors_and_nothing_else(export, student):
    content = torch.load(export.folder / "student.pth", weights_only=True)
    assert list(content) == ["model", "network"] and not content["network"]["classifier"]
    assert same(content["model"], student.state_dict())
    assert same(load_file(export.folder / "student.safetensors"), student.state_dict())


def test_the_backbone_is_the_bottom_up_network_by_its_own_names(export, student):
    assert same(load_file(export.folder / "backbone.safetensors"), student.backbone.bottom_up.state_dict())


def test_the_backbone_as_a_start_has_no_counters_and_says_that_names_are_matched_by_their_ends(
    export, student
):
    content = torch.load(export.folder / "backbone.pth", weights_only=True)
    expected = student.backbone.bottom_up.state_dict()
    assert any(k.endswith("num_batches_tracked") for k in expected)
    assert same(
        content["model"], {k: v for k, v in expected.items() if not k.endswith("num_batches_tracked")}
    )
    assert content["matching_heuristics"] is True


def test_the_metadata_say_how_images_are_prepared(export, cfg):
    with safe_open(export.folder / "backbone.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["architecture"] == "GeneralizedRCNN" and metadata["backbone_class"] == "ResNet"
    assert json.loads(metadata["pixel_mean"]) == cfg.MODEL.PIXEL_MEAN
    assert json.loads(metadata["pixel_std"]) == cfg.MODEL.PIXEL_STD
    assert (metadata["input_format"], metadata["torch"]) == (cfg.INPUT.FORMAT, torch.__version__)


def test_stock_detectron2_predicts_with_the_folder_as_it_is(export, student):
    stock = get_detectron2_cfg()
    stock.merge_from_file(str(export.folder / "config.yaml"))
    build_model(stock).load_state_dict(torch.load(stock.MODEL.WEIGHTS)["model"], strict=True)
    stock.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    predictor = DefaultPredictor(stock)
    assert same(predictor.model.state_dict(), student.state_dict())
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    assert len(predictor(image)["instances"]) > 0


def test_differences_are_zero_and_sizes_are_the_files(export):
    assert export.differences == dict.fromkeys(WEIGHTS, 0.0)
    assert export.sizes == {f: os.path.getsize(export.folder / f) for f in FILES}
    assert sorted(os.listdir(export.folder)) == FILES
    assert os.listdir(export.folder.parent) == ["student"]


def test_an_earlier_export_is_replaced_and_other_folders_are_not(tmp_path, cfg, checkpoint):
    out = tmp_path / "student"
    out.mkdir()
    for name in ("student.pth", "config.yaml", "student.safetensors", "backbone.safetensors", "backbone.pth"):
        (out / name).write_text("as earlier versions left it")
    export_student(cfg, checkpoint, out)
    assert (out / "student.pth").stat().st_size > 1000
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        export_student(cfg, checkpoint, out)
    assert os.listdir(tmp_path) == ["student"]


def test_a_tensor_changed_on_disk_is_found_and_no_folder_appears(tmp_path, cfg, checkpoint, monkeypatch):
    def read(path):
        state = load_file(path)
        if path.name == "backbone.safetensors":
            state["res5.2.conv3.weight"] += 1e-3
        return state

    monkeypatch.setattr(plain_files, "load_file", read)
    with pytest.raises(ExportError, match=r"backbone\.safetensors: .* differ by"):
        export_student(cfg, checkpoint, tmp_path / "student")
    assert os.listdir(tmp_path) == []


def test_a_start_that_detectron2_would_load_in_part_is_found(tmp_path, cfg, checkpoint, monkeypatch):
    def save(content, path):
        if path.name == "backbone.pth":
            del content["model"]["res4.0.conv1.weight"]
        torch_save(content, path)

    torch_save = torch.save
    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ExportError, match=r"(?s)backbone\.pth does not load .*res4\.0\.conv1\.weight"):
        export_student(cfg, checkpoint, tmp_path / "student")
    assert os.listdir(tmp_path) == []


def test_a_tensor_that_was_lost_is_found(tmp_path, cfg, checkpoint, monkeypatch):
    def read(path):
        state = load_file(path)
        del state["roi_heads.box_predictor.cls_score.bias"]
        return state

    monkeypatch.setattr(plain_files, "load_file", read)
    with pytest.raises(ExportError, match=r"student\.safetensors does not load"):
        export_student(cfg, checkpoint, tmp_path / "student", formats=["safetensors"])


def test_files_that_are_called_like_an_exports_are_no_earlier_export(tmp_path, cfg, checkpoint):
    for name in ("backbone.pth", "config.yaml"):  # as import-backbone writes them
        (tmp_path / name).write_text("precious")
    with pytest.raises(FileExistsError, match=r"backbone\.pth, config\.yaml"):
        export_student(cfg, checkpoint, tmp_path)


def test_every_file_can_be_read_by_whoever_may_read_the_config(export):
    assert len({file.stat().st_mode for file in export.folder.iterdir()}) == 1


@pytest.mark.parametrize("part", ["lateral5", "cls_score"])
def test_a_diverged_student_is_refused(tmp_path, cfg, student, part):
    state = {k: torch.full_like(v, float("nan")) if part in k else v for k, v in student.state_dict().items()}
    torch.save({"model": state}, tmp_path / "nan.pth")
    with pytest.raises(ExportError, match="not finite"):
        export_student(cfg, str(tmp_path / "nan.pth"), tmp_path / "student")


def test_a_teachers_file_a_backbones_file_and_no_file_are_errors_in_words(tmp_path, cfg, student):
    teacher, backbone = tmp_path / "teacher.pth", tmp_path / "backbone.pth"
    torch.save({"model": build(detector_cfg(width=8, fpn=24)).state_dict()}, teacher)
    torch.save({"model": {k: v for k, v in student.state_dict().items() if "bottom_up" in k}}, backbone)
    for path in (teacher, backbone):
        with pytest.raises(ValueError, match=f"{path.name} does not hold the student of this config"):
            export_student(cfg, str(path), tmp_path / "student")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth.*does not exist"):
        export_student(cfg, str(tmp_path / "nothing.pth"), tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_differences_that_cannot_be_measured_are_not_zero():
    one, other = torch.ones(2), torch.ones(3)
    assert check.largest_difference([one], [one + 0.5]) == 0.5
    assert check.largest_difference([one], [other]) == float("inf")
    assert check.largest_difference([], []) == float("inf")
    assert np.isnan(check.largest_difference([one, one], [one, one * float("nan")]))
