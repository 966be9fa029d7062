"""The lines that say how an exported student is used work as they are, for each kind of student."""

import numpy as np
import pytest
import torch
from PIL import Image

from det_distill.classification.mapper import mapper_for_tests
from det_distill.export import export_student, usage
from tests.tiny import build, classifier_cfg, detector_cfg


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def used(tmp_path, cfg, **names):
    """What the lines compute, and the model that was exported."""
    model = build(cfg).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "run.pth")
    export = export_student(cfg, str(tmp_path / "run.pth"), tmp_path / "export")
    lines = usage(export)
    assert ("needs det_distill" in lines[0]) == export.needs_det_distill
    exec("\n".join(lines), names)
    return names, model


@pytest.mark.parametrize("image_format", ["BGR", "L"])
@pytest.mark.parametrize(
    ("architecture", "value", "shape"), [("ImageClassifier", "logits", 2), ("MetricLearner", "embedding", 5)]
)
def test_a_classifier_gives_logits_and_a_metric_learner_an_embedding(
    tmp_path, photo, architecture, value, shape, image_format
):
    cfg = classifier_cfg(embedding=5)
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.INPUT.FORMAT, cfg.INPUT.CLASSIFICATION.RESIZE = image_format, 10
    if image_format == "L":
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [100.0], [60.0]
    if architecture == "MetricLearner":
        pytest.importorskip("pytorch_metric_learning")
    names, model = used(tmp_path, cfg, file=str(photo))
    assert names[value].shape == (shape,)
    with torch.no_grad():
        expected = model([mapper_for_tests(cfg)({"file_name": str(photo)})])[0][value]
    assert torch.equal(names[value], expected)


def test_a_detector_gives_instances(tmp_path):
    cfg = detector_cfg()
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    names, _ = used(tmp_path, cfg, image=image)
    assert len(names["found"]) > 0 and len(names["found"]) == len(names["found"].scores)
