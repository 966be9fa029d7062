"""What a classifier's file says of itself is compared with the model that takes it; what does not fit is an error."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from det_distill.checkpoint import StudentCheckpointer
from det_distill.engine import Trainer
from tests.handed import assert_arrived, c4_cfg, classifier, detector, load, save
from tests.tiny import build, distill_cfg, save_teacher


def test_a_classifier_of_other_classes_takes_backbone_and_embedding_and_says_what_begins_at_random(
    tmp_path, caplog
):
    first = build(classifier("cifar", classes=5, embedding=7), seed=1)
    StudentCheckpointer(first, str(tmp_path)).save("five")
    other = build(classifier("cifar", classes=3, embedding=7), seed=2)
    begun = other.classifier.weight.clone()
    load(other, str(tmp_path / "five.pth"))
    assert_arrived(other, tmp_path / "five.pth")
    assert torch.equal(other.embedding.weight, first.embedding.weight)
    assert torch.equal(other.classifier.weight, begun)
    assert (
        "classifier.weight of" in caplog.text and "(5, 7) in the file and (3, 7) in this model" in caplog.text
    )
    same = load(build(classifier("cifar", classes=5, embedding=7), seed=3), str(tmp_path / "five.pth"))
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in same.state_dict().items())


def test_a_metric_learner_begins_with_a_classifier(tmp_path):
    pytest.importorskip("pytorch_metric_learning")
    first = build(classifier("cifar", embedding=7), seed=1)
    StudentCheckpointer(first, str(tmp_path)).save("first")
    cfg = classifier("cifar", embedding=7)
    cfg.MODEL.META_ARCHITECTURE = "MetricLearner"
    learner = load(build(cfg, seed=2), str(tmp_path / "first.pth"))
    assert all(torch.equal(v, learner.state_dict()[k]) for k, v in first.state_dict().items())


def test_a_file_without_a_note_is_known_by_its_keys_and_a_detectors_file_is_left_alone(tmp_path):
    source = build(classifier("cifar"), seed=1)
    torch.save({"model": source.state_dict()}, tmp_path / "keys.pth")
    assert_arrived(load(build(detector("cifar"), seed=9), str(tmp_path / "keys.pth")), tmp_path / "keys.pth")
    other = build(detector("cifar"), seed=3)
    state = {**other.state_dict(), "classifier.weight": torch.zeros(2, 64)}  # a head of that name
    torch.save({"model": state}, tmp_path / "detector.pth")
    model = load(build(detector("cifar"), seed=9), str(tmp_path / "detector.pth"))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_stage_that_the_file_lacks_is_an_error_that_names_it(tmp_path):
    cfg = classifier("bottleneck")
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    file = save(tmp_path, cfg)
    load(build(detector("bottleneck", fpn=False), seed=9), file)  # up to res4 as well
    with pytest.raises(
        ValueError, match=r"not in the file: backbone\.bottom_up\.res5, 50 tensors \(such as .*res5\.0"
    ):
        load(build(detector("bottleneck"), seed=9), file)
    with pytest.raises(ValueError, match=r"not in the file: roi_heads\.res5, 50 tensors"):
        load(build(c4_cfg(), seed=9), file)


def test_another_backbone_is_an_error_and_nothing_is_loaded(tmp_path):
    wide = classifier("bottleneck")
    wide.MODEL.RESNETS.WIDTH_PER_GROUP = 6
    model = build(detector("bottleneck"), seed=9)
    begun = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"of other shapes: \S+res2\.0\.conv1\.weight \(file \(6, 8, 1, 1\), model"
    ):
        load(model, save(tmp_path, wide))
    with pytest.raises(
        ValueError, match=r"classifier\.pth holds a backbone that is not this model's: 0 of the"
    ):
        load(build(detector("vgg"), seed=9), save(tmp_path, wide))
    assert all(torch.equal(v, begun[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match=r"no tensors of the name backbone\.\*, only weight, bias"):
        load(torch.nn.Linear(2, 2), save(tmp_path, wide))


def test_a_norm_without_statistics_does_not_pass_for_frozen_batch_normalisation(tmp_path):
    """detectron2's FrozenBatchNorm2d fills in statistics that a file without versions lacks, and says nothing."""
    file = save(tmp_path, classifier("cifar"))
    content = torch.load(file)
    content["model"] = {k: v for k, v in content["model"].items() if "running" not in k}
    torch.save(content, file)
    frozen = detector("cifar")
    frozen.MODEL.CIFAR_RESNET.NORM = "FrozenBN"
    with pytest.raises(ValueError, match=r"stem\.norm\.running_mean"):
        load(build(frozen, seed=9), file)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("INPUT.FORMAT", "BGR", 'its channels are swapped, INPUT.FORMAT was "RGB" and is "BGR". Set'),
        ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0], "MODEL.PIXEL_STD was [60, 60, 60] and is [1, 1, 1]. Set"),
        (
            "MODEL.PIXEL_MEAN",
            [100.0, 110.0, 120.0],
            "MODEL.PIXEL_MEAN was [120, 110, 100] and is [100, 110, 120], in reverse order. Set",
        ),
    ],
)
def test_other_pixels_are_one_warning_that_says_what_to_set(tmp_path, caplog, key, value, said):
    file, cfg = save(tmp_path, classifier("cifar")), detector("cifar")
    cfg.merge_from_list([key, value])
    load(build(cfg), file)
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "det_distill.pixels"]
    assert f"{file} was trained on other pixels than this model gets: {said}" in warning
    its = 'INPUT.FORMAT: "RGB", MODEL.PIXEL_MEAN: [120, 110, 100], MODEL.PIXEL_STD: [60, 60, 60]'
    assert warning.endswith(f"Set {its}")


def test_a_mean_that_is_swapped_with_the_channels_is_a_swap_of_channels_all_the_same(tmp_path, caplog):
    file, cfg = save(tmp_path, classifier("cifar")), detector("cifar")
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN = "BGR", [100.0, 110.0, 120.0]
    load(build(cfg), file)
    assert 'its channels are swapped, INPUT.FORMAT was "RGB" and is "BGR". Set' in caplog.text
    assert "MEAN was" not in caplog.text


def test_pixels_that_differ_by_rounding_alone_are_no_warning(tmp_path, caplog):
    cfg = classifier("cifar")
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.04, 110.0, 99.95], [60.2, 60.0, 59.9]
    load(build(detector("cifar")), save(tmp_path, cfg))
    assert "other pixels" not in caplog.text


def test_stock_detectron2_reads_a_file_with_the_note_and_gives_back_what_it_does_not_know(tmp_path):
    cfg = detector("cifar")
    model = build(cfg, seed=1)
    StudentCheckpointer(model, str(tmp_path)).save("detector", iteration=3)
    other = build(cfg, seed=2)
    rest = DetectionCheckpointer(other).load(str(tmp_path / "detector.pth"))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in other.state_dict().items())
    assert rest["iteration"] == 3
    convolutions = rest["network"].pop("convolutions")
    assert convolutions["bottom_up.res3.0.conv1"] == [2, 1, 1, 1] and "fpn_output2" in convolutions
    assert rest["network"] == {
        "architecture": "GeneralizedRCNN",
        "classifier": False,
        "input_format": "RGB",
        "pixel_mean": [120.0, 110.0, 100.0],
        "pixel_std": [60.0, 60.0, 60.0],
    }


def test_a_run_that_trains_paraphrasers_takes_nothing_and_is_no_error(tmp_path):
    file = save(tmp_path, classifier("cifar"))
    pairs = {"ft": {"METHOD": "FactorTransfer", "AT": ["backbone:res4"]}}
    cfg = distill_cfg(classifier("cifar"), save_teacher(tmp_path, classifier("cifar")), pairs)
    cfg.MODEL.META_ARCHITECTURE = "ParaphraserPretrainer"
    model = Trainer.build_model(cfg)
    begun = {k: v.clone() for k, v in model.state_dict().items()}
    load(model, file)
    assert begun and all(torch.equal(v, begun[k]) for k, v in model.state_dict().items())
