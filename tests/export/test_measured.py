"""The table of what each file finds: the evaluator's own numbers, for detectors and classifiers."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Boxes, BoxMode, Instances

from det_distill import predictors
from det_distill.data import register_from_config
from det_distill.evaluation.ground_truth import evaluation_dicts
from det_distill.export import ExportError, export_student
from det_distill.export.formats import Written
from det_distill.export.measured import STUDENT, check_test_data, measure_files
from det_distill.tasks import task_of
from tests.tiny import build, classifier_cfg, detector_cfg, write_image_folder, write_voc

FILES = [Written("exact.onnx", "", 0, 0, detects=True), Written("backbone.pth", "", 0, 0)]


class Sees:
    """Answers with the objects of the images, in order; or with a part of them."""

    kind = "detector"

    def __init__(self, records, objects=2):
        self.records, self.objects, self.shapes = iter(records), objects, []

    def __call__(self, image):
        record = next(self.records)
        self.shapes.append((image.shape, image.dtype))
        given = record["annotations"][: self.objects]
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in given]
        return Instances(
            image.shape[:2],
            pred_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)),
            scores=torch.ones(len(given)),
            pred_classes=torch.tensor([a["category_id"] for a in given], dtype=torch.int64),
        )


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    cfg, tmp_path = detector_cfg(), tmp_path_factory.mktemp("shapes")
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 60
    cfg.DATASETS.VOC.exported_shapes = CfgNode({"ROOT": str(write_voc(tmp_path / "voc")), "SPLIT": "all"})
    cfg.DATASETS.TEST, cfg.OUTPUT_DIR = ("exported_shapes",), str(tmp_path / "run")
    register_from_config(cfg)
    return cfg


@pytest.mark.parametrize(("objects", "found"), [(2, 100.0), (1, 50.0), (0, 0.0)])
def test_a_file_that_finds_some_of_the_objects_has_their_ap(shapes, tmp_path, monkeypatch, objects, found):
    seen = Sees(evaluation_dicts("exported_shapes"), objects)
    monkeypatch.setattr(predictors, "load_predictor", lambda path: seen)
    (tmp_path / "exact.onnx").write_bytes(b"x" * 2_000_000)
    lines = []
    result = measure_files(shapes, build(shapes).eval(), tmp_path, FILES, say=lines.append)
    own, row = result.rows
    assert (row.file, row.megabytes, row.scores["AP"], row.scores["AP50 (VOC)"]) == (
        "exact.onnx",
        2.0,
        pytest.approx(found),
        pytest.approx(found),
    )
    assert own.file == STUDENT and math.isnan(own.megabytes) and row.milliseconds > 0
    assert set(seen.shapes) == {((64, 80, 3), np.dtype("uint8")), ((80, 64, 3), np.dtype("uint8"))}
    cells = result.cells()
    assert cells[0] == ["file", "MB", "ms/image", "AP", "AP50", "AP50 (VOC)", "AP - student's"]
    assert cells[2][-1] == f"{found - own.scores['AP']:+.2f}" and cells[1][-1] == ""
    assert "all 6 images of exported_shapes" in result.text() and "| exact.onnx | 2.00 |" in result.markdown()
    assert lines[1] == "Measuring exact.onnx ..."


def test_only_the_first_images_are_taken_and_the_runs_files_stay_as_they_were(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(
        predictors, "load_predictor", lambda path: Sees(evaluation_dicts("exported_shapes")[:3])
    )
    (tmp_path / "exact.onnx").write_bytes(b"x")
    result = measure_files(shapes, build(shapes).eval(), tmp_path, FILES, 3, say=print)
    assert (result.images, result.whole) == (3, False)
    assert result.rows[1].scores["AP"] == pytest.approx(100)  # of three images, not of six
    assert "the first 3 images" in result.note()
    assert not Path(shapes.OUTPUT_DIR).exists()
    assert not [name for name in DatasetCatalog if "exported_shapes (" in name]


def test_a_file_that_cannot_predict_is_named(shapes, tmp_path, monkeypatch):
    def load(path):
        raise ValueError("no graph in it")

    monkeypatch.setattr(predictors, "load_predictor", load)
    with pytest.raises(ExportError, match=r"exact\.onnx cannot predict: no graph in it"):
        measure_files(shapes, build(shapes).eval(), tmp_path, FILES, 1)


def test_without_test_data_that_is_told_before_anything_is_written(shapes, tmp_path):
    cfg = detector_cfg()
    with pytest.raises(ValueError, match="DATASETS.TEST of the config is empty"):
        export_student(cfg, "nowhere.pth", tmp_path / "out", evaluate=0)
    cfg = classifier_cfg()
    cfg.MODEL.META_ARCHITECTURE = "MetricLearner"
    with pytest.raises(ValueError, match="an embedding is measured by"):
        check_test_data(cfg)


def test_a_classifiers_files_have_the_accuracy_that_its_own_evaluation_gives(tmp_path):
    cfg = classifier_cfg()
    root = write_image_folder(tmp_path / "folder", count=8, size=(8, 8))
    cfg.DATASETS.IMAGES.measured_images = CfgNode({"ROOT": str(root)})
    cfg.DATASETS.TEST = ("measured_images",)
    register_from_config(cfg)
    model = build(cfg).eval()
    with torch.no_grad():  # sure of one class, so that the other's probability is 0 in float32
        model.classifier.weight.mul_(1e4)
    torch.save({"model": model.state_dict()}, tmp_path / "run.pth")
    export = export_student(
        cfg, str(tmp_path / "run.pth"), tmp_path / "out", formats=["pth", "safetensors"], evaluate=0
    )
    expected = inference_on_dataset(
        model,
        task_of(cfg).test_loader(cfg, "measured_images"),
        task_of(cfg).evaluator(cfg, "measured_images"),
    )["classification"]["top1"]
    assert [row.file for row in export.measurement.rows] == [STUDENT, "student.pth", "student.safetensors"]
    assert {row.scores["top-1"] for row in export.measurement.rows} == {expected}
    assert (
        f"| student.pth | {export.sizes['student.pth'] / 1e6:.2f} |"
        in (export.folder / "card.md").read_text()
    )
