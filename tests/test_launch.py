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
from tests.tiny import build, classifier_cfg

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


@pytest.mark.parametrize(("feature", "early"), [("", False), ("res4", False), ("res3", True)])
def test_unused_parameters_are_looked_for_only_behind_an_early_map(feature, early):
    cfg = classifier_cfg()
    cfg.MODEL.CLASSIFIER.FEATURE = feature
    assert launching._pools_an_early_map(build(cfg)) == early


def test_train_net_ends_with_one_line_where_it_cannot_start_processes(monkeypatch):
    has_gpus(monkeypatch, 0)
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", "x.yaml", "--num-gpus", "2"])
    with pytest.raises(SystemExit, match="^train_net.py: --num-gpus 2: this machine has no usable GPU"):
        runpy.run_path(str(TRAIN_NET), run_name="__main__")
