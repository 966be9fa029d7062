"""Peak memory of one part of a distilled step, each measured in a process of its own.

On a GPU: the most that torch's allocator had handed out, weights included. On the CPU: the largest resident
set (``VmHWM``) less the resident set before anything was built, Linux only; allocators keep some of what is
freed, so take differences below some 20 MB for nothing.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from ..train_step import autocast
from .steps import Batch, Training, build_distiller, build_plain

__all__ = ["peak_memory"]

_STEPS = 2


def peak_memory(cfg: CfgNode, part: str, batch: Batch, student: dict[str, Any] | None = None) -> int:
    """Return the peak memory in bytes of two steps in a new process.

    Args:
        cfg: a distillation with all its files.
        part: ``"plain"``, ``"distilled"``: training; ``"teacher"``: the teachers alone.
        batch: what it runs on.
        student: address -> value of the student on this batch, as the teachers need it.

    Raises:
        RuntimeError: the process failed; with the last line that it wrote.
    """
    job = pickle.dumps({"cfg": cfg, "part": part, "batch": batch, "student": student or {}})
    # freed memory goes back at once, so that building does not count
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", __name__]
    result = subprocess.run(command, input=job, env=environment, capture_output=True, check=False)
    if result.returncode:
        last = result.stderr.decode().strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
        raise RuntimeError(f"the memory of {part!r} could not be measured: {last[0]}")
    return int(result.stdout.split()[-1])


def _run(job: dict[str, Any]) -> int:
    before = _resident("VmRSS")
    step = _prepared(**job)
    gc.collect()
    _reset_peak()
    for _ in range(_STEPS):
        step()
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return _resident("VmHWM") - before


def _prepared(cfg: CfgNode, part: str, batch: Batch, student: dict[str, Any]) -> Callable[[], object]:
    if part == "teacher":
        teachers = list(build_distiller(cfg, [batch]).teachers.values())

        def forward() -> None:
            with autocast(cfg):
                for teacher in teachers:
                    teacher(batch, student)

        return forward
    training = Training(build_plain(cfg) if part == "plain" else build_distiller(cfg, [batch]), cfg)
    training.batch = batch
    return training.step


def _reset_peak() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    elif os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")


def _resident(field: str) -> int:
    """A field of /proc/self/status, in bytes; 0 where there is no such file."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


if __name__ == "__main__":
    print(_run(pickle.load(sys.stdin.buffer)))  # from the process that started this one, not from a file
