"""The kinds of files of a student: each holds what its readers look for; asking for several is all or nothing."""

import json
import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model
from safetensors import safe_open

from det_distill.export import DoesNotFit, ExportError, export_student, formats, plain_files
from det_distill.export.formats import FORMATS, Written
from det_distill.export.student import chosen_formats
from tests.tiny import build, detector_cfg


def small():
    """A detector of few proposals."""
    cfg = detector_cfg(norm="BN")
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 60, 30
    return cfg


@pytest.fixture
def student():
    return build(small(), seed=5).eval()


@pytest.fixture
def checkpoint(tmp_path, student):
    torch.save({"model": student.state_dict()}, tmp_path / "model_final.pth")
    return str(tmp_path / "model_final.pth")


@pytest.fixture
def two(monkeypatch):
    """Two formats: "pth" and "odd", which the test gives."""

    def given(writer):
        monkeypatch.setattr(plain_files, "write_odd", writer, raising=False)
        for name in [name for name in FORMATS if name != "pth"]:
            monkeypatch.delitem(formats.FORMATS, name)
        monkeypatch.setitem(formats.FORMATS, "odd", "plain_files:write_odd")

    return given


def test_stock_detectron2_loads_the_file_for_its_zoo_and_finds_the_same(tmp_path, student, checkpoint):
    export = export_student(small(), checkpoint, tmp_path / "out", formats=["pkl"])
    stock = get_detectron2_cfg()
    stock.merge_from_file(str(export.folder / "config.yaml"))
    assert stock.MODEL.WEIGHTS == str(export.folder / "student.pkl")
    model = build_model(stock).eval()
    DetectionCheckpointer(model).load(stock.MODEL.WEIGHTS)
    for name, value in student.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_the_file_for_the_zoo_holds_numpy_arrays_and_plain_containers_only(tmp_path, checkpoint):
    export = export_student(small(), checkpoint, tmp_path / "out", formats=["pkl"])
    asked = set()

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            asked.add(f"{module.split('.')[0]}.{name}")
            return super().find_class(module, name)

    with (export.folder / "student.pkl").open("rb") as file:
        content = Unpickler(file).load()
    assert asked <= {"numpy._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode"}
    assert content["__author__"] == "det_distill" and content["matching_heuristics"] is False
    assert all(isinstance(value, np.ndarray) for value in content["model"].values())


def test_safetensors_say_the_config_the_classes_and_the_normalisation(tmp_path, student, checkpoint):
    cfg = small()
    export = export_student(cfg, checkpoint, tmp_path / "out", formats=["safetensors"])
    with safe_open(export.folder / "student.safetensors", "pt") as file:
        said = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert said["config"] == (export.folder / "config.yaml").read_text()
    assert json.loads(said["classes"]) == ["class 0", "class 1"]
    assert json.loads(said["pixel_mean"]) == cfg.MODEL.PIXEL_MEAN and said["input_format"] == "BGR"
    stock = get_detectron2_cfg()
    stock.merge_from_other_cfg(CfgNode.load_cfg(said["config"]))
    build_model(stock).load_state_dict(tensors, strict=True)
    assert torch.equal(tensors["backbone.fpn_lateral2.weight"], student.backbone.fpn_lateral2.weight)


def test_only_what_was_asked_for_is_written(tmp_path, checkpoint):
    export = export_student(small(), checkpoint, tmp_path / "out", formats=["card"])
    assert sorted(export.sizes) == ["card.md", "config.yaml", "export.json"]


def test_an_unknown_format_is_told_before_anything_is_built(tmp_path):
    with pytest.raises(ValueError, match="no export format 'onxn': choose from pth, pkl, "):
        export_student(CfgNode(), "nowhere.pth", tmp_path / "out", formats=["pth", "onxn"])
    assert chosen_formats(["pth", "pth", "pkl"]) == ["pth", "pkl"]
    assert chosen_formats(["all"]) == list(FORMATS)


def test_all_goes_on_without_what_cannot_hold_the_network_and_says_why(tmp_path, checkpoint, two):
    def write(request, folder):
        raise DoesNotFit("odd holds squares only")

    two(write)
    export = export_student(small(), checkpoint, tmp_path / "out", formats=["all"])
    assert export.left_out == {"odd": "odd holds squares only"} and "student.pth" in export.sizes
    assert "- odd: odd holds squares only" in (export.folder / "card.md").read_text()
    with pytest.raises(DoesNotFit, match="squares"):
        export_student(small(), checkpoint, tmp_path / "out", formats=["pth", "odd"])


@pytest.mark.parametrize("difference", [0.2, float("nan")])
def test_a_file_that_differs_by_more_than_is_accepted_leaves_an_earlier_export_as_it_was(
    tmp_path, checkpoint, two, difference
):
    def write(request, folder):
        (folder / "odd.bin").write_text("odd")
        return [Written("odd.bin", "odd", difference, 0.1)]

    two(write)
    out = tmp_path / "out"
    export_student(small(), checkpoint, out, formats=["pth"])
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    for asked in (["odd", "pth"], ["all"]):
        with pytest.raises(ExportError, match=r"odd\.bin: outputs differ by .* more than 0\.1"):
            export_student(small(), checkpoint, out, formats=asked)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model_final.pth", "out"]


def test_an_earlier_export_of_other_formats_is_known_by_its_list_of_files(tmp_path, checkpoint, two):
    def write(request, folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "odd.bin").write_text("odd")
        return [Written("deep/odd.bin", "odd", 0.1, 0.1)]

    two(write)
    out = tmp_path / "out"
    export_student(small(), checkpoint, out, formats=["odd"])
    assert export_student(small(), checkpoint, out, formats=["pth"]).folder == out
    assert not (out / "deep").exists()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        export_student(small(), checkpoint, out, formats=["pth"])
