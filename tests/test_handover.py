"""A classifier's file named in a detector's MODEL.WEIGHTS: every tensor of the backbone arrives, or it is an error."""

import logging

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from det_distill.engine import Trainer, load_config, setup
from det_distill.export import export_student, start_of_a_detector
from tests.handed import assert_arrived, bottom_up, c4_cfg, classifier, detector, load, stored
from tests.tiny import build, detector_cfg, distill_cfg, save_teacher, write_image_folder, write_voc

KINDS = ["bottleneck", "basic", "vgg", "timm", "cifar"]


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
