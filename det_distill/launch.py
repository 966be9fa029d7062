"""One process per GPU (or several on the CPU): how they are started, and the model that they train together."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import launch as spawn
from detectron2.engine.launch import DEFAULT_TIMEOUT
from detectron2.modeling.backbone import FPN
from detectron2.utils import comm
from torch import nn
from torch.multiprocessing.spawn import ProcessExitedException
from torch.nn.parallel import DistributedDataParallel

from .wrapping import student_of

__all__ = ["LaunchError", "launch", "parallel"]

Main = Callable[[argparse.Namespace], Any]

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_OF_SEVERAL = "--num-gpus and --num-machines"


class LaunchError(ValueError):
    """Processes that cannot be started as they were asked for."""


def launch(main: Main, arguments: argparse.Namespace) -> None:
    """Run ``main(arguments)`` in every process: those that torchrun has started, or those that are asked for.

    Under torchrun (its variables are in the environment) this process is one of them: it joins the others, by NCCL
    where there are GPUs and by gloo where there are none, and uses the GPU of its number on this machine. Otherwise
    detectron2's launcher starts ``--num-gpus`` processes on each of ``--num-machines`` machines.

    Args:
        main: is run in each process; a function of a module, which another process can import.
        arguments: of ``detectron2.engine.default_argument_parser``: ``num_gpus``, ``num_machines``,
            ``machine_rank`` and ``dist_url`` are read here.

    Raises:
        LaunchError: fewer GPUs than processes, or two ways to start processes at once.
        SystemExit: a process that was started here has ended so, having said why.
    """
    asked = arguments.num_gpus * arguments.num_machines
    if all(name in os.environ for name in _TORCHRUN):
        if asked > 1:
            raise LaunchError(
                f"{_OF_SEVERAL} start processes, and torchrun has started them already: leave these options away"
            )
        _join(main, arguments)
        return
    if asked > 1:
        _check_gpus(arguments.num_gpus, f"--num-gpus {arguments.num_gpus}")
    try:
        spawn(
            _run,
            arguments.num_gpus,
            num_machines=arguments.num_machines,
            machine_rank=arguments.machine_rank,
            dist_url=arguments.dist_url,
            args=(main, arguments),
        )
    except ProcessExitedException as error:
        if error.signal_name is not None:
            raise
        sys.exit(error.exit_code)


def parallel(model: nn.Module) -> nn.Module:
    """Return what several processes train as one model: `model` in a DistributedDataParallel; alone, `model` itself.

    Gradients are averaged over the processes, so a loss that is a mean over the images of a batch has the gradient of
    the whole batch. Buffers, such as the statistics of batch normalisation, are each process's own, as in detectron2;
    a checkpoint has the first one's.

    A classifier that does not pool its backbone's deepest map has parameters without a gradient, and one that pools a
    map of an FPN has them in the other levels; they are looked for in each step. Any other model must use all its
    parameters.

    Raises:
        ValueError: the model is not on the device of this process.
    """
    if comm.get_world_size() == 1:
        return model
    device = next(model.parameters()).device
    on_gpus = dist.get_backend() == "nccl"
    if on_gpus and device.type != "cuda":
        raise ValueError(
            f"MODEL.DEVICE {device.type!r} with several processes on a machine with GPUs: hide them, "
            "CUDA_VISIBLE_DEVICES= torchrun ..."
        )
    if on_gpus and device.index != torch.cuda.current_device():
        raise ValueError(
            f"MODEL.DEVICE {str(device)!r} with several processes: leave it at 'cuda', so that each takes its own GPU"
        )
    return DistributedDataParallel(
        model,
        device_ids=[device.index] if on_gpus else None,
        broadcast_buffers=False,
        find_unused_parameters=_may_leave_parameters_unused(model),
    )


def _may_leave_parameters_unused(model: nn.Module) -> bool:
    """Whether a classifier, or a distilled one, may not need all of its backbone for the map that it pools.

    It needs all if this map has the greatest stride, alone, and no level of an FPN is built beside it. Dilated stages
    have equal strides: which of them is the deepest cannot be told. A map of no stride is behind all that have one.
    """
    student = student_of(model)
    pooled, backbone = getattr(student, "feature", None), getattr(student, "backbone", None)
    if pooled is None or backbone is None:
        return False
    strides = {name: shape.stride or math.inf for name, shape in backbone.output_shape().items()}
    others = [stride for name, stride in strides.items() if name != pooled]
    return isinstance(backbone, FPN) or strides[pooled] <= max(others, default=0)


def _join(main: Main, arguments: argparse.Namespace) -> None:
    """Run `main` as one of torchrun's processes."""
    if int(os.environ["WORLD_SIZE"]) == 1:
        main(arguments)
        return
    local_rank, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if int(os.environ["WORLD_SIZE"]) % here:
        raise LaunchError(
            f"WORLD_SIZE {os.environ['WORLD_SIZE']} is no multiple of the {here} processes of this machine: start "
            "as many on each"
        )
    gpus = torch.cuda.is_available()
    if gpus:
        _check_gpus(here, f"torchrun --nproc-per-node {here}")
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if gpus else "gloo", timeout=DEFAULT_TIMEOUT)
    _tell_detectron2(here)
    comm.synchronize()
    _run(main, arguments)


def _run(main: Main, arguments: argparse.Namespace) -> None:
    """Run `main`, then leave the other processes; not after an error, when they may be waiting for this one."""
    main(arguments)
    if dist.is_initialized():
        dist.destroy_process_group()


def _tell_detectron2(here: int) -> None:
    """Make the groups of the processes of one machine that detectron2's `comm` asks for; as its launcher does."""
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(here)
        return
    for first in range(0, dist.get_world_size(), here):  # 0.6
        ranks = list(range(first, first + here))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            comm._LOCAL_PROCESS_GROUP = group


def _check_gpus(processes: int, asked: str) -> None:
    found = torch.cuda.device_count()
    if found == 0:
        raise LaunchError(
            f"{asked}: this machine has no usable GPU. On the CPU several processes are started by "
            f"'torchrun --nproc-per-node {processes} tools/train_net.py ...', without --num-gpus"
        )
    if processes > found:
        raise LaunchError(
            f"{asked}: this machine has {found} usable GPU{'s' if found > 1 else ''}; one process uses one"
        )
