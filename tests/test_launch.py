"""How processes are started, and what is said when they cannot be."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from torch import nn

from det_distill import launch as launching
from det_distill.launch import LaunchError, launch, parallel
from tests.tiny import build, classifier_cfg, detector_cfg

TRAIN_NET = Path(__file__).parents[1] / "tools" / "train_net.py"


@pytest.fixture
def torchrun(monkeypatch):
    """Makes this process look like one of several that torchrun has started."""

    def pretend(processes: int, here: int | None = None) -> None:
        values = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": here or processes}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return pretend


def arguments(*options):
    return default_argument_parser().parse_args(["--config-file", "any.yaml", *options])


def has_gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)


def test_one_process_runs_the_function_itself():
    seen = []
    launch(seen.append, given := arguments())
    assert seen == [given] and comm.get_world_size() == 1


def test_a_lone_process_of_torchrun_runs_the_function_itself(torchrun):
    torchrun(1)
    seen = []
    launch(seen.append, given := arguments())
    assert seen == [given] and comm.get_world_size() == 1


def test_several_gpus_that_are_not_there_are_an_error_that_names_torchrun(monkeypatch):
    has_gpus(monkeypatch, 0)
    with pytest.raises(
        LaunchError, match="--num-gpus 2: .*'torchrun --nproc-per-node 2 tools/train_net.py ...'"
    ):
        launch(pytest.fail, arguments("--num-gpus", "2"))


def test_more_processes_than_gpus_are_an_error(monkeypatch, torchrun):
    has_gpus(monkeypatch, 2)
    with pytest.raises(LaunchError, match="--num-gpus 3: this machine has 2 usable GPUs"):
        launch(pytest.fail, arguments("--num-gpus", "3"))
    torchrun(8, here=4)
    with pytest.raises(LaunchError, match="--nproc-per-node 4: this machine has 2 usable GPUs"):
        launch(pytest.fail, arguments())


@pytest.mark.parametrize("option", ["--num-gpus", "--num-machines"])
def test_torchrun_and_detectron2s_launcher_at_once_are_an_error(torchrun, option):
    torchrun(2)
    with pytest.raises(LaunchError, match="leave these options away"):
        launch(pytest.fail, arguments(option, "2"))


def test_machines_with_unequal_numbers_of_processes_are_an_error(torchrun):
    torchrun(3, here=2)
    with pytest.raises(LaunchError, match="WORLD_SIZE 3 is no multiple of the 2 processes"):
        launch(pytest.fail, arguments())


def test_newer_versions_of_detectron2_make_the_local_groups_themselves(monkeypatch):
    told = []
    monkeypatch.setattr(comm, "create_local_process_group", told.append, raising=False)
    launching._tell_detectron2(4)
    assert told == [4]


def test_a_process_that_ended_by_itself_ends_its_parent_without_a_traceback(monkeypatch):
    def ends(*_, **__):
        raise launching.ProcessExitedException(
            "gone", error_index=0, error_pid=1, exit_code=1, signal_name=None
        )

    monkeypatch.setattr(launching, "spawn", ends)
    with pytest.raises(SystemExit) as ended:
        launch(pytest.fail, arguments())
    assert ended.value.code == 1


def test_a_model_of_one_process_is_left_as_it_is():
    model = nn.Linear(1, 1)
    assert parallel(model) is model


def test_a_model_on_the_cpu_beside_gpus_is_an_error(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    with pytest.raises(ValueError, match="MODEL.DEVICE 'cpu' .* CUDA_VISIBLE_DEVICES= torchrun"):
        parallel(nn.Linear(1, 1))


def unused(model):
    """The parameters that get no gradient in a training step."""
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    model.train()([{"image": image, "label": 0}] * 2)["loss_cls"].backward()
    return {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}


def cifar_resnet(cfg):
    pass


def resnet(cfg):
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_resnet_backbone", 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.NORM = 18, 64, "BN"


def in_reverse(cfg):
    resnet(cfg)
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5", "res4"]


def dilated(cfg):  # res4 and res5 have one stride
    in_reverse(cfg)
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 50, 256
    cfg.MODEL.RESNETS.RES5_DILATION = 2


def pyramid(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_cifar_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = ["res2", "res3", "res4"], 8


def plain(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_plain_backbone"
    cfg.MODEL.PLAIN.IMAGE_SIZE = 64


@pytest.mark.parametrize(
    ("backbone", "feature", "some"),
    [
        (cifar_resnet, "", False),
        (cifar_resnet, "res4", False),
        (cifar_resnet, "res3", True),
        (resnet, "", False),  # detectron2 builds no stage behind res4, the only map
        (in_reverse, "", True),
        (in_reverse, "res5", False),
        (dilated, "", True),
        (pyramid, "", True),
        (pyramid, "p0", True),
        (plain, "", False),
        (plain, "layer4", True),
    ],
)
def test_unused_parameters_are_looked_for_where_there_are_some(backbone, feature, some):
    cfg = classifier_cfg()
    backbone(cfg)
    cfg.MODEL.CLASSIFIER.FEATURE = feature
    model = build(cfg)
    assert bool(unused(model)) == launching._may_leave_parameters_unused(model) == some


def test_a_detector_is_not_searched_for_unused_parameters():
    assert not launching._may_leave_parameters_unused(build(detector_cfg()))


def test_train_net_ends_with_one_line_where_it_cannot_start_processes(monkeypatch):
    has_gpus(monkeypatch, 0)
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", "x.yaml", "--num-gpus", "2"])
    with pytest.raises(SystemExit, match="^train_net.py: --num-gpus 2: this machine has no usable GPU"):
        runpy.run_path(str(TRAIN_NET), run_name="__main__")
