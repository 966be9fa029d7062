"""`load_predictor`: the same numbers as detectron2's own predictor, from every kind of file, and clear errors."""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.engine import DefaultPredictor
from PIL import Image
from safetensors.torch import save_file

from det_distill.classification.mapper import mapper_for_tests
from det_distill.config import get_cfg
from det_distill.predictors import load_predictor
from tests.tiny import CLASSES, build, classifier_cfg, detector_cfg, distill_cfg, save_teacher


def image(height=60, width=90, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def tiny(image_format="BGR"):
    cfg = detector_cfg()
    cfg.INPUT.FORMAT = image_format
    cfg.MODEL.PIXEL_MEAN = [10.0, 110.0, 210.0]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.01
    return cfg


def saved(folder, cfg, seed=0, **more):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build(cfg, seed).state_dict(), **more}, folder / "model_final.pth")
    return folder / "model_final.pth"


def default_predictor(cfg, weights, rgb):
    """detectron2's, which is given BGR whatever the config says."""
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(weights)
    return DefaultPredictor(cfg)(rgb[:, :, ::-1])["instances"]


def same(found, expected):
    assert len(expected) > 0
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("size", [(60, 90), (200, 131)])
def test_detections_are_those_of_detectron2s_predictor_bit_for_bit(tmp_path, image_format, size):
    cfg = tiny(image_format)
    weights = saved(tmp_path, cfg)
    found = load_predictor(weights)(image(*size))
    same(found, default_predictor(cfg, weights, image(*size)))
    assert found.image_size == size


def test_the_order_of_channels_matters_to_these_networks(tmp_path):
    rgb = load_predictor(saved(tmp_path / "rgb", tiny("RGB")))(image()).scores
    bgr = load_predictor(saved(tmp_path / "bgr", tiny("BGR")))(image()).scores
    assert not torch.equal(rgb, bgr)


def test_a_retinanet_predicts_as_detectron2_does(tmp_path):
    cfg = tiny()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RETINANET.NUM_CLASSES = 2
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.001
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    predictor = load_predictor(saved(tmp_path, cfg))
    same(predictor(image()), default_predictor(cfg, predictor.file, image()))
    assert predictor.score_threshold == 0.001 and len(predictor.classes) == 2


def test_of_a_distillations_checkpoint_the_student_predicts_and_no_teacher_is_needed(tmp_path):
    student = tiny()
    teacher = save_teacher(tmp_path, tiny())
    pairs = {"at": {"METHOD": "AttentionTransfer", "AT": ["backbone:p3"]}}
    cfg = distill_cfg(student, teacher, pairs)
    state = {**build(student).state_dict(), "distill.at.adapter.weight": torch.ones(3)}
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": state, "iteration": 9}, tmp_path / "model_final.pth")
    plain = saved(tmp_path / "plain", student)
    for file in tmp_path.glob("teacher.*"):
        file.unlink()
    same(load_predictor(tmp_path)(image()), default_predictor(student, plain, image()))


def test_safetensors_bring_their_config_and_classes_along(tmp_path):
    cfg = tiny("RGB")
    plain = saved(tmp_path / "plain", cfg)
    texts = {"config": cfg.dump(), "classes": json.dumps(CLASSES), "input_format": "RGB", "part": "student"}
    save_file(build(cfg).state_dict(), tmp_path / "lone.safetensors", metadata=texts)
    predictor = load_predictor(tmp_path / "lone.safetensors")
    assert predictor.classes == CLASSES
    same(predictor(image()), default_predictor(cfg, plain, image()))


def test_options_override_the_config_and_a_config_may_be_named_or_handed_over(tmp_path):
    cfg = tiny()
    weights = saved(tmp_path, cfg)
    key = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
    assert load_predictor(weights, opts=[key, "0.9"]).score_threshold == 0.9
    (tmp_path / "config.yaml").rename(tmp_path / "other.yaml")
    assert load_predictor(weights, tmp_path / "other.yaml").score_threshold == 0.01
    assert load_predictor(weights, cfg).kind == "detector"


def test_the_file_names_its_classes_and_they_can_be_renamed(tmp_path):
    predictor = load_predictor(saved(tmp_path, tiny(), network={"classes": list(CLASSES)}))
    assert predictor.classes == CLASSES
    predictor.rename(["a", "b"])
    assert predictor.classes == ("a", "b")
    with pytest.raises(ValueError, match=r"3 class names \(a, b, c\).* tells 2 classes apart"):
        predictor.rename(["a", "b", "c"])


def test_classes_without_names_have_numbers_and_a_note_of_other_length_is_not_believed(tmp_path):
    predictor = load_predictor(saved(tmp_path, tiny(), network={"classes": ["one"]}))
    assert predictor.classes == ("class 0", "class 1")


@pytest.mark.parametrize("image_format", ["RGB", "BGR", "L"])
def test_a_classifiers_image_is_prepared_as_in_its_tests(tmp_path, image_format):
    cfg = classifier_cfg()
    cfg.INPUT.FORMAT, cfg.INPUT.CLASSIFICATION.RESIZE = image_format, 10
    cfg.MODEL.PIXEL_MEAN = [10.0, 110.0, 210.0]
    if image_format == "L":
        cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [100.0], [50.0]
    predictor = load_predictor(saved(tmp_path, cfg))
    Image.fromarray(image(30, 41)).save(tmp_path / "photo.png")
    with torch.no_grad():
        sample = mapper_for_tests(cfg)({"file_name": str(tmp_path / "photo.png")})
        expected = build(cfg).eval()([sample])[0]["logits"].softmax(0)
    assert predictor.kind == "classifier"
    assert torch.equal(predictor(image(30, 41)), expected)


def test_a_classifiers_image_of_its_own_size_goes_in_as_it_is(tmp_path):
    for image_format in ("RGB", "BGR"):
        cfg = classifier_cfg()
        cfg.INPUT.FORMAT = image_format
        cfg.MODEL.PIXEL_MEAN = [10.0, 110.0, 210.0]
        predictor = load_predictor(saved(tmp_path / image_format, cfg))
        pixels = image(8, 8)
        ordered = pixels if image_format == "RGB" else pixels[:, :, ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(ordered.transpose(2, 0, 1)))
        with torch.no_grad():
            expected = build(cfg).eval()([{"image": tensor}])[0]["logits"].softmax(0)
        assert torch.equal(predictor(pixels), expected)


def test_weights_that_are_not_all_there_never_predict(tmp_path):
    cfg = tiny()
    weights = saved(tmp_path, cfg)
    state = build(cfg).state_dict()
    del state["roi_heads.box_predictor.cls_score.weight"]
    torch.save({"model": state}, weights)
    with pytest.raises(ValueError, match=r"(?s)does not hold the weights of the network.*cls_score"):
        load_predictor(weights)


def test_another_number_of_classes_is_told_with_both(tmp_path):
    weights = saved(tmp_path, tiny())
    with pytest.raises(ValueError, match=r"other shapes.*file \(3, 24\), model \(6, 24\)"):
        load_predictor(weights, opts=["MODEL.ROI_HEADS.NUM_CLASSES", "5"])


def test_what_is_no_model_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no model 'nowhere.pth'"):
        load_predictor("nowhere.pth")
    with pytest.raises(FileNotFoundError, match="it has no weights at all"):
        load_predictor(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"photo\.jpg is no model: the name of one ends in \.pth"):
        load_predictor(tmp_path / "photo.jpg")
    weights = saved(tmp_path / "run", tiny())
    lonely = shutil.copy(weights, tmp_path / "model_0000009.pth")
    with pytest.raises(FileNotFoundError, match=r"no config\.yaml beside .*--config-file"):
        load_predictor(lonely)
    with pytest.raises(FileNotFoundError, match=r"name one of its files: model_0000009\.pth"):
        load_predictor(tmp_path)
    (tmp_path / "run" / "model_final.pth").write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model_final\.pth is not a readable checkpoint"):
        load_predictor(tmp_path / "run")


def test_a_backbone_alone_is_refused(tmp_path):
    weights = saved(tmp_path, tiny(), network={"part": "backbone"})
    with pytest.raises(ValueError, match="a backbone alone"):
        load_predictor(weights)


def test_a_metric_learner_names_no_classes(tmp_path):
    cfg = classifier_cfg()
    cfg.MODEL.META_ARCHITECTURE = cfg.DISTILL.STUDENT_ARCHITECTURE = "MetricLearner"
    with pytest.raises(ValueError, match="metric learner"):
        load_predictor(saved(tmp_path, classifier_cfg()), cfg)


@pytest.mark.parametrize("device", ["gpu please", "cuda"])
def test_a_device_that_is_not_there_is_told(tmp_path, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match=f"device '{device}'"):
        load_predictor(saved(tmp_path, tiny()), device=device)


@pytest.mark.parametrize("wrong", [image()[..., 0], image().astype(np.float32), image()[:0]])
def test_an_array_that_is_no_rgb_image_is_told(tmp_path, wrong):
    with pytest.raises(ValueError, match="RGB bytes"):
        load_predictor(saved(tmp_path, tiny()))(wrong)


def test_a_plain_config_of_stock_detectron2_is_enough(tmp_path):
    cfg = tiny()
    weights = saved(tmp_path, cfg)
    stock = cfg.clone()
    for key in set(get_cfg()) - set(get_detectron2_cfg()):
        stock.pop(key, None)
    (tmp_path / "config.yaml").write_text(stock.dump())
    same(load_predictor(weights)(image()), default_predictor(cfg, weights, image()))


def graph(monkeypatch, folder, metadata, run):
    """A file whose runtime does `run`."""

    class Runtime:
        def __init__(self, path):
            self.metadata = metadata

        def __call__(self, pixels):
            return run(pixels)

    module = SimpleNamespace(open_runtime=Runtime)
    monkeypatch.setitem(sys.modules, "det_distill.export.runtimes", module)
    (folder / "student.onnx").write_bytes(b"")
    return folder / "student.onnx"


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_a_graph_gets_the_image_as_the_network_does_and_its_boxes_are_in_the_images_pixels(
    tmp_path, monkeypatch, image_format
):
    cfg = tiny(image_format)
    weights = saved(tmp_path, cfg)
    model = build(cfg).eval()

    def run(pixels):
        assert pixels.dtype == torch.float32
        found = model([{"image": pixels}])[0]["instances"]
        return {"boxes": found.pred_boxes.tensor, "scores": found.scores, "classes": found.pred_classes}

    metadata = {
        "kind": "detector",
        "architecture": "GeneralizedRCNN",
        "classes": list(CLASSES),
        "input_format": image_format,
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        "score_threshold": 0.01,
    }
    predictor = load_predictor(graph(monkeypatch, tmp_path, metadata, run))
    assert (predictor.classes, predictor.score_threshold) == (CLASSES, 0.01)
    same(predictor(image(200, 131)), default_predictor(cfg, weights, image(200, 131)))


def test_a_classifiers_graph_gets_the_image_resized_and_cropped_as_its_network_does(tmp_path, monkeypatch):
    cfg = classifier_cfg()
    cfg.INPUT.CLASSIFICATION.RESIZE = 10
    model = build(cfg).eval()
    metadata = {
        "kind": "classifier",
        "classes": list(CLASSES),
        "input_format": "RGB",
        "resize": 10,
        "crop": 8,
    }
    path = graph(monkeypatch, tmp_path, metadata, lambda x: {"logits": model([{"image": x}])[0]["logits"]})
    expected = load_predictor(saved(tmp_path, cfg))(image())
    assert torch.equal(load_predictor(path)(image()), expected)


def test_a_graph_takes_no_config_and_no_device(tmp_path):
    (tmp_path / "student.onnx").write_bytes(b"")
    for options in ({"config": "x.yaml"}, {"device": "cuda"}, {"opts": ["SEED", 1]}):
        with pytest.raises(ValueError, match="exported graph: it runs on the CPU"):
            load_predictor(tmp_path / "student.onnx", **options)


def test_the_graph_of_a_backbone_is_refused(tmp_path, monkeypatch):
    path = graph(monkeypatch, tmp_path, {"kind": "backbone", "classes": []}, lambda x: {})
    with pytest.raises(ValueError, match=r"student\.onnx holds a backbone alone"):
        load_predictor(path)
