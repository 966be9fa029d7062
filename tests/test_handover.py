"""A classifier's file named in a detector's MODEL.WEIGHTS: every tensor of the backbone arrives, or it is an error."""

import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from det_distill.checkpoint import StudentCheckpointer
from det_distill.engine import Trainer, load_config, setup
from det_distill.export import export_student, start_of_a_detector
from tests.tiny import (
    build,
    classifier_cfg,
    detector_cfg,
    distill_cfg,
    save_teacher,
    write_image_folder,
    write_voc,
)

KINDS = ["bottleneck", "basic", "vgg", "timm", "cifar"]


def backbone(cfg, kind, name, feature):
    """Give a config a small backbone of a kind; `feature`: build up to there, all stages if it is a detector's FPN."""
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    upto = [feature]
    if kind in ("bottleneck", "basic"):
        family = "resnet"
        node = cfg.MODEL.RESNETS
        node.DEPTH, node.NORM, node.OUT_FEATURES = 50, "BN", upto
        node.STEM_OUT_CHANNELS, node.WIDTH_PER_GROUP, node.RES2_OUT_CHANNELS = 8, 4, 16
        if kind == "basic":  # detectron2 has this width alone
            node.DEPTH, node.RES2_OUT_CHANNELS = 18, 64
    elif kind == "vgg":
        family, cfg.MODEL.VGG.DEPTH, cfg.MODEL.VGG.NORM = "vgg", 11, "BN"
        cfg.MODEL.VGG.OUT_FEATURES = upto
    elif kind == "timm":
        family, cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.FREEZE_NORM = "timm", "test_resnet", False
        cfg.MODEL.TIMM.OUT_FEATURES = upto
    else:
        family, cfg.MODEL.CIFAR_RESNET.DEPTH = "cifar_resnet", 8
    cfg.MODEL.BACKBONE.NAME = f"build_{family}_{name}"


LAST = {"vgg": "pool5", "cifar": "res4"}


def classifier(kind, classes=2, **options):
    if kind == "timm":
        pytest.importorskip("timm")
    cfg = classifier_cfg(classes=classes, **options)
    backbone(cfg, kind, "backbone", LAST.get(kind, "res5"))
    cfg.INPUT.CLASSIFICATION.CROP = 32
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.0, 110.0, 100.0], [60.0, 60.0, 60.0]
    return cfg


def detector(kind, fpn=True, norm="FrozenBN"):
    cfg = detector_cfg()
    if fpn:
        backbone(cfg, kind, "fpn_backbone", "res5")
        features = {"vgg": ["conv3", "conv4", "conv5", "pool5"], "cifar": ["res2", "res3", "res4"]}
        cfg.MODEL.FPN.IN_FEATURES = features.get(kind, ["res2", "res3", "res4", "res5"])
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.VGG.OUT_FEATURES = features["vgg"]
        cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        if kind == "cifar":
            cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32]]
            cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p0", "p1", "p2"]
    else:
        last = {"vgg": "conv5"}.get(kind, "res4")
        backbone(cfg, kind, "backbone", last)
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32]]
        cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = [last]
    cfg.MODEL.RESNETS.NORM = cfg.MODEL.VGG.NORM = norm
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.0, 110.0, 100.0], [60.0, 60.0, 60.0]
    return cfg


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("handover")


@pytest.fixture(scope="module")
def trained(folder):
    """Kind -> the file of a classifier that the trainer trained for two steps."""
    images = write_image_folder(folder / "images", size=(32, 32))
    files = {}

    def train(kind):
        if kind not in files:
            cfg = classifier(kind)
            cfg.DATASETS.IMAGES.coloured_squares = CfgNode({"ROOT": str(images)})
            cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coloured_squares",), ()
            cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR = 2, str(folder / kind)
            (folder / f"{kind}.yaml").write_text(cfg.dump())
            trainer = Trainer(load_config(str(folder / f"{kind}.yaml")))
            trainer.resume_or_load(False)
            trainer.train()
            files[kind] = str(folder / kind / "model_final.pth")
        return files[kind]

    return train


def load(model, file):
    StudentCheckpointer(model).resume_or_load(file, resume=False)
    return model


def stored(file):
    return torch.load(file)["model"]


def bottom_up(model):
    return getattr(model.backbone, "bottom_up", model.backbone)


def assert_arrived(model, file):
    """Every tensor of the model's backbone is that of the file, bit by bit."""
    state, mine = stored(file), bottom_up(model).state_dict()
    assert mine
    different = [k for k, v in mine.items() if not torch.equal(v, state[f"backbone.{k}"])]
    assert not different


@pytest.mark.parametrize("fpn", [True, False], ids=["fpn", "no fpn"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_trained_classifiers_backbone_arrives_in_a_detector(trained, caplog, kind, fpn):
    file, model = trained(kind), build(detector(kind, fpn), seed=9)
    begun = {k: v.clone() for k, v in bottom_up(model).state_dict().items()}
    caplog.clear()
    with caplog.at_level(logging.INFO):
        load(model, file)
    assert_arrived(model, file)
    assert any(not torch.equal(v, begun[k]) for k, v in bottom_up(model).state_dict().items())
    counted = sum(not k.endswith("num_batches_tracked") for k in begun)
    where = "backbone.bottom_up" if fpn else "backbone"
    assert (
        f"arrived, all {counted} tensors of it that this model has, below {where}. Left out: " in caplog.text
    )
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert all("not found in the checkpoint" in text for text in warned)  # FPN, RPN and heads, as ever
    assert "classifier" not in "".join(warned) and "bottom_up" not in "".join(warned)


def test_two_steps_moved_weights_and_running_statistics(trained):
    """Otherwise the tests above would compare what every network begins with."""
    state, begun = stored(trained("bottleneck")), build(classifier("bottleneck"), seed=7).state_dict()
    for name in ("backbone.stem.conv1.weight", "backbone.res5.2.conv3.norm.running_var"):
        assert not torch.equal(state[name], begun[name])
    assert state["backbone.res5.2.conv3.norm.running_mean"].abs().sum() > 0


def test_the_trainer_takes_it_from_model_weights_and_trains_on(trained, folder):
    file, cfg = trained("bottleneck"), detector("bottleneck", norm="BN")
    cfg.DATASETS.VOC.handed_shapes = CfgNode({"ROOT": str(write_voc(folder / "voc")), "SPLIT": "all"})
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("handed_shapes",), ()
    (folder / "detector.yaml").write_text(cfg.dump())
    options = ["MODEL.WEIGHTS", file, "OUTPUT_DIR", str(folder / "detector"), "SOLVER.MAX_ITER", "1"]
    arguments = ["--config-file", str(folder / "detector.yaml"), *options]
    trainer = Trainer(setup(default_argument_parser().parse_args(arguments)))
    trainer.resume_or_load(False)
    assert_arrived(trainer.model, file)
    assert trainer.start_iter == 0
    trainer.train()
    moved = stored(folder / "detector" / "model_final.pth")["backbone.bottom_up.res5.2.conv3.weight"]
    assert not torch.equal(moved, stored(file)["backbone.res5.2.conv3.weight"])


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "FrozenBN"])
def test_running_statistics_arrive_in_every_kind_of_batch_normalisation(trained, norm):
    file = trained("bottleneck")
    model = load(build(detector("bottleneck", norm=norm), seed=9), file)
    found = model.backbone.bottom_up.res3[0].conv1.norm
    expected = stored(file)["backbone.res3.0.conv1.norm.running_mean"]
    assert torch.equal(found.running_mean, expected) and expected.abs().sum() > 0


def c4_cfg():
    cfg = detector("bottleneck", fpn=False)
    cfg.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
    return cfg


def test_res5_becomes_the_head_of_a_c4_detector(trained, caplog):
    file = trained("bottleneck")
    with caplog.at_level(logging.INFO):
        model = load(build(c4_cfg(), seed=9), file)
    assert_arrived(model, file)
    state = stored(file)
    mine = model.roi_heads.res5.state_dict()
    assert all(torch.equal(v, state[f"backbone.res5.{k}"]) for k, v in mine.items())
    assert "below backbone and roi_heads.res5. Left out: classifier" in caplog.text


def test_a_distilled_detector_takes_it_and_a_distilled_classifiers_pairs_stay_behind(trained, tmp_path):
    state = stored(trained("bottleneck"))
    state["distill.fm.losses.lsh.bias"] = torch.ones(3)
    torch.save({"model": state}, tmp_path / "distilled.pth")
    pairs = {"fm": {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"], "LSH": True, "BIAS": "zero"}}
    teacher = save_teacher(tmp_path, detector_cfg(width=8, fpn=24))
    cfg = distill_cfg(detector("bottleneck"), teacher, pairs)
    file = str(tmp_path / "distilled.pth")
    assert_arrived(load(build(detector("bottleneck"), seed=9), file), file)
    wrapped = Trainer.build_model(cfg)
    hashes = {k: v.clone() for k, v in wrapped.state_dict().items() if k.startswith("distill.")}
    load(wrapped, file)
    assert_arrived(wrapped.student, file)
    assert hashes and all(torch.equal(wrapped.state_dict()[k], v) for k, v in hashes.items())


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


def save(tmp_path, cfg):
    StudentCheckpointer(build(cfg, seed=1), str(tmp_path)).save("classifier")
    return str(tmp_path / "classifier.pth")


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


def test_another_backbone_is_an_error_and_nothing_is_loaded(tmp_path, trained):
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
    assert rest["network"] == {
        "architecture": "GeneralizedRCNN",
        "classifier": False,
        "input_format": "RGB",
        "pixel_mean": [120.0, 110.0, 100.0],
        "pixel_std": [60.0, 60.0, 60.0],
    }


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("basic", "vgg")]  # of their usual widths


@pytest.mark.parametrize("kind", ["bottleneck", "timm", "cifar", *SLOW])
def test_stock_detectron2_starts_from_the_exported_backbone(tmp_path, trained, kind):
    file = trained(kind)
    export = export_student(classifier(kind), file, tmp_path / "export")
    for fpn in (True, False):
        cfg = detector(kind, fpn)
        cfg.INPUT.FORMAT = "BGR"
        exec("\n".join(start_of_a_detector(export)), {"cfg": cfg})
        assert cfg.INPUT.FORMAT == "RGB"
        stock, ours = build(cfg, seed=9), build(cfg, seed=9)
        DetectionCheckpointer(stock).load(cfg.MODEL.WEIGHTS)
        load(ours, cfg.MODEL.WEIGHTS)
        state = stored(file)
        for model in (stock, ours):
            for name, value in bottom_up(model).state_dict().items():
                assert name.endswith("tracked") or torch.equal(value, state[f"backbone.{name}"]), name


def test_the_exported_backbone_is_checked_like_any_file_when_our_tools_load_it(tmp_path, trained, caplog):
    export = export_student(classifier("bottleneck"), trained("bottleneck"), tmp_path / "export")
    file = str(export.folder / "backbone.pth")
    c4 = load(build(c4_cfg(), seed=9), file)
    state = stored(trained("bottleneck"))
    assert torch.equal(c4.roi_heads.res5[0].conv1.weight, state["backbone.res5.0.conv1.weight"])
    swapped = detector("bottleneck")
    swapped.INPUT.FORMAT = "BGR"
    load(build(swapped), file)
    assert "its channels are swapped" in caplog.text
    with pytest.raises(ValueError, match=r"backbone\.pth holds a backbone that is not this model's"):
        load(build(detector("vgg")), file)


def test_a_run_that_trains_paraphrasers_takes_nothing_and_is_no_error(tmp_path):
    file = save(tmp_path, classifier("cifar"))
    pairs = {"ft": {"METHOD": "FactorTransfer", "AT": ["backbone:res4"]}}
    cfg = distill_cfg(classifier("cifar"), save_teacher(tmp_path, classifier("cifar")), pairs)
    cfg.MODEL.META_ARCHITECTURE = "ParaphraserPretrainer"
    model = Trainer.build_model(cfg)
    begun = {k: v.clone() for k, v in model.state_dict().items()}
    load(model, file)
    assert begun and all(torch.equal(v, begun[k]) for k, v in model.state_dict().items())
