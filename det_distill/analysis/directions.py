"""Does a student have its teacher's directions, its lengths, or both? Measured at the pairs of a distillation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from ..checkpoint import StrictCheckpointer, read_weights
from ..config import complete_config
from ..distiller import DISTILL_PREFIX, Distiller, made_for_another_teacher
from ..methods import METHODS
from ..modes import batch_norms, restored_modes
from ..randomness import kept_random_state
from .distance import Distance, DistanceMeter

__all__ = ["build_for_distances", "load_student", "measure"]


def build_for_distances(
    cfg: CfgNode, at: Sequence[str] = (), teacher: str = ""
) -> tuple[Distiller, dict[str, str]]:
    """Build the distillation of a config, with those pairs that have a teacher, counting from the first iteration.

    Args:
        cfg: a distillation with all its files.
        at: addresses to compare without adapters in place of the config's pairs: ``backbone:p3`` on both sides, or
            ``student address=teacher address``.
        teacher: whose; needed with `at` where there are several.

    Returns:
        The distiller, and the name of each of its pairs -> what reports call it.

    Raises:
        ValueError: the config distils nothing, or what is wrong with an address.
    """
    cfg = cfg.clone()
    cfg.defrost()
    pairs = cfg.DISTILL.PAIRS
    if at:
        _keep_teacher(cfg, teacher)
        pairs = CfgNode({f"at{n}": _bare_pair(a) for n, a in enumerate(at)})
    cfg.DISTILL.PAIRS = CfgNode(
        {n: p for n, p in pairs.items() if not getattr(METHODS[p.METHOD], "teacher_free", False)}
    )
    complete_config(cfg)
    for node in cfg.DISTILL.PAIRS.values():
        node.START, node.STOP, node.WARMUP = 0, -1, 0
    try:
        model = build_model(cfg)
    except ValueError as error:
        raise ValueError(re.sub(r"DISTILL\.PAIRS\.at\d+|pair 'at\d+'", "--at", str(error))) from error
    if not isinstance(model, Distiller) or not model.distill:
        raise ValueError(
            "nothing to compare: the config needs MODEL.META_ARCHITECTURE 'Distiller', DISTILL.ENABLED True "
            "and a pair with a teacher (or --at)"
        )
    return model, {name: at[int(name[2:])] if at else name for name in model.distill.by_name()}


def _keep_teacher(cfg: CfgNode, teacher: str) -> None:
    """Leave one teacher in the config."""
    known = list(cfg.DISTILL.TEACHERS)
    chosen = teacher or (known[0] if len(known) == 1 else "")
    if chosen not in known:
        raise ValueError(
            f"--teacher {teacher!r}: name one of the config's teachers, {', '.join(known) or 'of which there is none'}"
        )
    cfg.DISTILL.TEACHERS = CfgNode({chosen: cfg.DISTILL.TEACHERS[chosen]})


def _bare_pair(at: str) -> CfgNode:
    student, _, teacher = at.partition("=")
    node = {
        "METHOD": "FeatureMimicking",
        "STUDENT": student,
        "TEACHER": teacher or student,
        "ADAPTER": "none",
    }
    return CfgNode(node)


def load_student(model: Distiller, name: str, weights: str) -> None:
    """Load a student's file into a distiller: all of the student, and the adapters of all pairs that have any.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is another model's file, or has no adapters for a pair, or another teacher's.
    """
    if not os.path.isfile(weights):
        raise FileNotFoundError(f"the weights {weights!r} of student {name!r} do not exist")
    try:
        StrictCheckpointer(model.student).load(weights)
    except ValueError as error:
        raise ValueError(f"{weights} does not fit the config's student: {error}") from error
    saved = read_weights(weights)
    for pair_name, pair in model.distill.by_name().items():
        adapter = pair.student_adapter
        if adapter is None or not adapter.state_dict():
            continue
        prefix = f"{DISTILL_PREFIX}{pair_name}."
        own = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
        state = {
            k.removeprefix("student_adapter."): v for k, v in own.items() if k.startswith("student_adapter.")
        }
        if not state:
            raise ValueError(
                f"{weights} of student {name!r} has no adapter for pair {pair_name!r}, without which its feature "
                "cannot be compared with the teacher's: leave the student away, or name places of equal channels "
                "with --at"
            )
        what = f"the adapter of pair {pair_name!r} in {weights}"
        if made_for_another_teacher(pair, own, ""):
            raise ValueError(f"{what} was trained for another teacher than the config's")
        _load_adapter(adapter, state, what)


def _load_adapter(adapter: nn.Module, state: Mapping[str, torch.Tensor], what: str) -> None:
    try:
        adapter.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(f"{what} does not fit: {' '.join(str(error).split())}") from error


@torch.no_grad()
def measure(model: Distiller, batches: Iterable[Any], *, seed: int = 0) -> dict[str, Distance]:
    """Return the distance of each pair over training batches.

    Features are what the pairs compare in training: after adapters, alignment and selection; in a detector's box head
    those of the student's sampled proposals, which the teacher's head gets too. Normalisation and dropout are in eval
    mode, no weight or statistic changes, and what is sampled depends on the weights and the seed alone.

    Raises:
        ValueError: a pair whose two features are not of one shape; begins with its name.
    """
    pairs = model.distill.by_name()
    meters = {name: DistanceMeter(f"pair {name!r}") for name in pairs}
    kept = {name: (pair.losses, pair.terms, pair.weights) for name, pair in pairs.items()}
    for name, pair in pairs.items():
        pair.losses, pair.terms, pair.weights = nn.ModuleDict({"loss": meters[name]}), ("",), {"": 1.0}
    try:
        with restored_modes(model), kept_random_state(), EventStorage():
            _only_sample(model)
            for number, batch in enumerate(batches):
                torch.manual_seed(seed + number)
                model(batch)
    finally:
        for name, pair in pairs.items():
            pair.losses, pair.terms, pair.weights = kept[name]
    return {name: meter.result() for name, meter in meters.items()}


def _only_sample(model: Distiller) -> None:
    """Let a detector sample proposals as in training, and everything else compute as in a test."""
    model.train()
    for module in model.student.modules():
        if next(module.children(), None) is None:
            module.eval()
    for norm in batch_norms(model.student):  # some have modules of their own
        norm.eval()
    model.distill.eval()
