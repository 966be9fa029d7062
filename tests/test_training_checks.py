"""What is told before a training begins: random weights that nothing trains, norms that need GPUs, missing files."""

import logging

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.utils import comm
from torch import nn

from det_distill.engine import Trainer
from det_distill.modeling.vgg import build_vgg_backbone
from det_distill.training_checks import check_frozen, check_synchronised_norms
from tests.tiny import classifier_cfg, detector_cfg, distill_cfg, save_teacher, write_image_folder
from tests.train_each import train_each


def classifier_on(name, **keys):
    """The config of a classifier on a small backbone, of which nothing is frozen."""
    cfg = classifier_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = f"build_{name}_backbone", 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.OUT_FEATURES = "BN", ["res3"]
    cfg.MODEL.VGG.DEPTH, cfg.MODEL.VGG.OUT_FEATURES = 11, ["conv2"]
    cfg.MODEL.REGNET.NAME, cfg.MODEL.REGNET.OUT_FEATURES = "X_200MF", ["s2"]
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_FEATURES = "lcnet_050", ["res3"]
    cfg.MODEL.TIMM.FREEZE_NORM = False
    for key, value in keys.items():
        node, key = key.split("__")
        cfg.MODEL[node][key] = value
    return cfg


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "resnet",
            {"BACKBONE__FREEZE_AT": 2},
            "5 norms and 5 other layers in backbone.stem, backbone.res2. Set MODEL.BACKBONE.FREEZE_AT to 0 .it is 2.,",
        ),
        (
            "resnet",
            {"RESNETS__NORM": "FrozenBN"},
            "0 other layers in backbone.stem, backbone.res2, backbone.res3. Set MODEL.RESNETS.NORM to 'BN'",
        ),
        (
            "vgg",
            {"VGG__FREEZE_AT": 1},
            "0 norms and 1 other layers in backbone.features.0. Set MODEL.VGG.FREEZE_AT",
        ),
        (
            "regnet",
            {"REGNET__FREEZE_AT": 1},
            "1 norms and 1 other layers in backbone.stem. Set MODEL.REGNET.FREEZE_AT",
        ),
        (
            "timm",
            {"TIMM__FREEZE_NORM": True},
            "in backbone.body.*Set MODEL.TIMM.FREEZE_NORM to False .it is True.,",
        ),
        ("timm", {"TIMM__FREEZE_AT": 2}, "in backbone.body.*Set MODEL.TIMM.FREEZE_AT to 0 .it is 2.,"),
        ("cifar_resnet", {"CIFAR_RESNET__NORM": "FrozenBN"}, "Set MODEL.CIFAR_RESNET.NORM to 'BN'"),
    ],
)
def test_a_classifier_with_a_frozen_part_is_refused_by_the_keys_that_freeze_it(name, keys, message):
    if name == "timm":
        pytest.importorskip("timm")
    check_frozen(free := classifier_on(name), build_model(free).train())
    cfg = classifier_on(name, **keys)
    with pytest.raises(ValueError, match=message):
        check_frozen(cfg, build_model(cfg).train())


def test_a_frozen_norm_without_parameters_is_found_by_its_mode():
    cfg = classifier_cfg()
    model = build_model(cfg).train()
    model.backbone.stem.norm = nn.BatchNorm2d(16, affine=False)
    check_frozen(cfg, model)
    model.backbone.stem.norm.eval()
    with pytest.raises(ValueError, match="1 norms and 0 other layers in backbone.stem"):
        check_frozen(cfg, model)


def build_loaded_backbone(cfg, input_shape):
    """A backbone of somebody else, which may have loaded weights here."""
    return build_vgg_backbone(cfg, input_shape)


def test_a_detector_and_a_backbone_of_others_get_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(BACKBONE_REGISTRY, "_obj_map", dict(BACKBONE_REGISTRY))
    BACKBONE_REGISTRY.register(build_loaded_backbone)
    foreign = classifier_on("loaded", VGG__FREEZE_AT=1)
    for cfg, part in ((detector_cfg(), "backbone.bottom_up.stem"), (foreign, "backbone.features.0")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            check_frozen(cfg, build_model(cfg).train())
        assert part in caplog.text and "would keep its random weights" in caplog.text


def test_what_train_only_leaves_out_is_frozen_on_purpose_and_what_it_names_is_not(tmp_path):
    teacher = save_teacher(tmp_path, classifier_cfg(depth=14))
    for keys, refused in (({}, False), ({"BACKBONE__FREEZE_AT": 3}, True)):
        student = classifier_on("resnet", **keys)
        pair = {"METHOD": "SoftTarget", "AT": ["classifier"]}
        cfg = distill_cfg(student, teacher, {"kd": pair})
        cfg.DISTILL.TRAIN_ONLY = ["backbone.res3", "classifier"]
        model = build_model(cfg).train()
        assert not any(p.requires_grad for p in model.student.backbone.stem.parameters())
        if refused:
            with pytest.raises(ValueError, match="in backbone.res3. Set MODEL.BACKBONE.FREEZE_AT"):
                check_frozen(cfg, model)
        else:
            check_frozen(cfg, model)


@pytest.fixture(scope="module")
def cfg_of_run(tmp_path_factory):
    """A small classifier with a norm that never trains, and its data."""
    cfg = classifier_cfg()
    cfg.MODEL.CIFAR_RESNET.NORM = "FrozenBN"
    root = write_image_folder(tmp_path_factory.mktemp("checks"))
    cfg.DATASETS.IMAGES.checked = CfgNode({"ROOT": str(root)})
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("checked",)
    cfg.SOLVER.MAX_ITER, cfg.PROGRESS_BAR = 1, "off"
    return cfg


@pytest.fixture
def run(tmp_path, cfg_of_run):
    """Words for tools/train_net.py; weights that fit are in ``trained.pth``."""
    (tmp_path / "run.yaml").write_text(cfg_of_run.dump())
    torch.save({"model": build_model(cfg_of_run).state_dict()}, tmp_path / "trained.pth")
    return ["--config-file", str(tmp_path / "run.yaml"), "OUTPUT_DIR", str(tmp_path / "out")]


def test_a_training_that_begins_from_random_weights_is_checked_and_one_from_a_file_or_a_checkpoint_is_not(
    run, tmp_path
):
    for options in ([], ["--resume"]):
        with pytest.raises(SystemExit, match="^train_net.py: MODEL.WEIGHTS is '' and a part of the backbone"):
            train_each([[*options, *run]])
    train_each([[*run, "MODEL.WEIGHTS", str(tmp_path / "trained.pth")]])
    train_each([["--resume", *run, "SOLVER.MAX_ITER", "2"]])
    with pytest.raises(SystemExit, match=r"MODEL.WEIGHTS '.*gone.pth': there is no such file"):
        train_each([[*run, "MODEL.WEIGHTS", str(tmp_path / "gone.pth")]])


def test_random_weights_are_not_measured(run, tmp_path):
    trained = ["MODEL.WEIGHTS", str(tmp_path / "trained.pth")]
    for options, message in (
        (
            ["--eval-only", *run],
            "--eval-only would measure random weights: name .* MODEL.WEIGHTS, or add --resume",
        ),
        (
            ["--eval-only", "--resume", *run],
            "--resume measures the last checkpoint of OUTPUT_DIR, and .*out' has none",
        ),
        (["--eval-only", "--resume", *run, *trained], "has none"),
        (
            ["--eval-only", *run, "MODEL.WEIGHTS", "gone.pth"],
            "MODEL.WEIGHTS 'gone.pth': there is no such file",
        ),
    ):
        with pytest.raises(SystemExit, match=message):
            train_each([options])
    (measured,) = train_each([["--eval-only", *run, *trained]])
    train_each([[*run, *trained, "SOLVER.BASE_LR", "0.0"]])
    (resumed,) = train_each([["--eval-only", "--resume", *run]])
    assert measured == resumed and "top1" in measured["classification"]


def test_several_processes_on_the_cpu_are_told_which_norm_to_take(monkeypatch):
    cfg = classifier_cfg()
    cfg.MODEL.CIFAR_RESNET.NORM = "SyncBN"
    model = build_model(cfg)
    check_synchronised_norms(cfg, model)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="MODEL.CIFAR_RESNET.NORM 'SyncBN': .*needs GPUs.* 'naiveSyncBN'"):
        Trainer(cfg)
    cfg.MODEL.CIFAR_RESNET.NORM = "naiveSyncBN"
    check_synchronised_norms(cfg, build_model(cfg))
