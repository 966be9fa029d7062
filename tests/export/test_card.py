"""The card of an export: a stranger reads what the student is, where it comes from and how to run it."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from det_distill.class_names import class_names
from det_distill.export import export_student
from det_distill.export.lineage import recorded_scores, taught_by
from tests.tiny import CLASSES, build, classifier_cfg, detector_cfg, distill_cfg, write_image_folder

PAIRS = {"fm": {"METHOD": "FeatureMimicking", "AT": ["backbone:p3"], "ADAPTER": "linear", "WEIGHT": 0.5}}
TEACHER = {
    "CONFIG": "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml",
    "WEIGHTS": "/home/me/runs/big/model_final.pth",
}


def small():
    cfg = detector_cfg()
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 60
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    return cfg


def run_of(folder, cfg, results=None):
    """A run's folder: its last checkpoint, and what it measured."""
    folder.mkdir(exist_ok=True)
    torch.save({"model": build(cfg).state_dict()}, folder / "model_final.pth")
    if results:
        (folder / "metrics.json").write_text(json.dumps({"iteration": 3, **results}) + "\n")
    return str(folder / "model_final.pth")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    cfg = distill_cfg(small(), TEACHER, PAIRS)
    weights = run_of(folder / "run", small(), {"bbox/AP": 24.4528, "voc/AP50": 51.05, "total_loss": 1.0})
    (folder / "run" / "teachers.json").write_text(json.dumps({"big": {"results": {"bbox": {"AP": 40.0}}}}))
    return export_student(cfg, weights, folder / "out", formats=["pth", "safetensors"])


def section(export, heading):
    text = (export.folder / "card.md").read_text()
    return re.search(rf"## {heading}\n\n(.*?)(\n## |\Z)", text, re.S)[1]


def test_it_says_what_the_student_is(export):
    text = (export.folder / "card.md").read_text()
    assert text.startswith("# Object detector: GeneralizedRCNN on resnet 50 with FPN\n")
    parameters = sum(p.numel() for p in build(small()).parameters())
    assert f"{parameters / 1e6:.2f} million parameters" in text
    assert "- Classes (2): class 0, class 1\n" in text and "- Needs: detectron2 alone" in text
    assert (
        "order BGR, pixels 0 to 255, minus (103.53, 116.28, 123.675), divided by (1, 1, 1); the shorter "
        in text
    )


def test_it_names_the_teacher_and_what_it_measured_and_the_method(export):
    assert section(export, "How it was trained").splitlines() == [
        "- Teacher `big`: config `COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml`, weights `big/model_final.pth`; on the "
        "same test data AP 40.00",
        "- Method: FeatureMimicking (pair `fm`, at `backbone:p3`, weight 0.5)",
    ]


def test_without_evaluation_it_has_what_the_training_measured_and_says_so(export):
    told = section(export, "How good it is")
    assert "What the training measured when it ended" in told and "AP 24.45, AP50 (VOC) 51.05." in told
    assert "not measured themselves" in told


def test_another_checkpoint_than_the_last_has_no_recorded_ap(tmp_path):
    weights = run_of(tmp_path / "run", small(), {"bbox/AP": 24.4528})
    assert recorded_scores(weights) == {"AP": 24.4528}
    other = tmp_path / "run" / "model_0000002.pth"
    other.write_bytes((tmp_path / "run" / "model_final.pth").read_bytes())
    export = export_student(small(), str(other), tmp_path / "out", formats=["card"])
    assert section(export, "How good it is").startswith("Not measured: ")
    assert taught_by(small(), weights) == ["It was trained without a teacher."]


def test_its_digests_are_those_of_the_files_and_the_list_has_the_cards_too(export):
    lines = re.findall(r"^([0-9a-f]{64})  (\S+)$", (export.folder / "card.md").read_text(), re.M)
    assert [name for _, name in lines] == ["config.yaml", "student.pth", "student.safetensors"]
    listed = json.loads((export.folder / "export.json").read_text())["files"]
    assert sorted([*listed, "export.json"]) == sorted(export.sizes)
    for digest, name in [*lines, (listed["card.md"]["sha256"], "card.md")]:
        content = (export.folder / name).read_bytes()
        assert digest == listed[name]["sha256"] == hashlib.sha256(content).hexdigest()


def test_its_cost_is_of_one_size_on_this_machine(export):
    told = section(export, "What it costs")
    assert re.match(
        r"On an image of 192 x 256 pixels .*: [\d.]+ GFLOPs .*, [\d.]+ ms \(PyTorch, float32", told
    )
    assert f"{torch.get_num_threads()} thread" in told


@pytest.mark.parametrize("formats", [["pth"], ["pkl"], ["safetensors"]])
def test_its_lines_of_python_run_in_a_folder_that_was_moved(tmp_path, monkeypatch, formats):
    export = export_student(small(), run_of(tmp_path / "run", small()), tmp_path / "out", formats=formats)
    code = re.search(r"```python\n(.*?)```", (export.folder / "card.md").read_text(), re.S)[1]
    monkeypatch.chdir(export.folder.rename(tmp_path / "moved"))
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save("photo.jpg")
    names = {}
    exec(code, names)
    assert len(names["found"]) > 0 and names["found"].image_size == (64, 96)


def test_a_classifiers_card_has_its_class_names_and_crops_and_its_file_too(tmp_path):
    from detectron2.config import CfgNode

    from det_distill.data import register_from_config

    cfg = classifier_cfg()
    cfg.INPUT.CLASSIFICATION.RESIZE = 10
    cfg.DATASETS.IMAGES.card_images = CfgNode({"ROOT": str(write_image_folder(tmp_path / "folder"))})
    cfg.DATASETS.TRAIN = ("card_images",)
    register_from_config(cfg)
    assert class_names(cfg) == CLASSES
    export = export_student(cfg, run_of(tmp_path / "run", cfg), tmp_path / "out", formats=["pth"])
    text = (export.folder / "card.md").read_text()
    assert text.startswith("# Image classifier: ImageClassifier on cifar_resnet 8\n")
    assert "Classes (2): disc, square\n" in text
    assert "the shorter side resized to 10, the middle 8 x 8 pixels" in text
    content = torch.load(export.folder / "student.pth", weights_only=True)
    assert content["network"]["classes"] == list(CLASSES)


def test_names_of_another_number_of_classes_are_not_the_models(tmp_path):
    cfg = classifier_cfg(classes=3)
    assert class_names(cfg) == ("class 0", "class 1", "class 2")
    cfg.DATASETS.TRAIN = ("card_images_of_two", "never_registered")
    write_image_folder(tmp_path)
    from det_distill.data import register_images

    register_images("card_images_of_two", root=str(tmp_path))
    assert class_names(cfg) == ("class 0", "class 1", "class 2")
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 2
    assert class_names(cfg) == CLASSES
