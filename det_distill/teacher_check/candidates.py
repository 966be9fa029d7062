"""The teachers of a config, each built alone: what is wrong with one does not hide what is wrong with another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from .. import model_zoo
from ..class_names import class_names
from ..config import build_student, build_teacher, get_cfg, merge_file, merge_options
from ..data import register_from_config
from ..files import load_model_file
from ..handover import NETWORK
from ..lazy_configs import build_lazy_model
from ..teachers import Teacher, as_teacher
from .findings import TROUBLES, Finding, error_text

__all__ = ["Candidate", "candidates", "known_classes"]


@dataclass
class Candidate:
    """A teacher, as far as it could be built.

    Attributes:
        name: in ``DISTILL.TEACHERS``.
        teacher: None: not even its config could be built.
        trained: whether all of its weights are loaded; otherwise they are random.
        classes: the names of its classes in their order; () if they are not known.
        said: what its weights say of themselves, see `handover.describe`.
        findings: how that went.
    """

    name: str
    teacher: Teacher | None = None
    trained: bool = False
    classes: tuple[str, ...] = ()
    said: Mapping[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def candidates(cfg: CfgNode) -> Iterator[Candidate]:
    """Build the teachers of a config one after the other, strictly; of what cannot be loaded the network alone."""
    for name, node in cfg.DISTILL.TEACHERS.items():
        found = Candidate(name)
        about = f"teacher {name}"
        try:
            found.teacher = build_teacher(cfg, name)
            found.trained = True
            weights = node.WEIGHTS or "its zoo's weights"
            found.findings.append(
                Finding("ok", about, f"{node.CONFIG} loads {weights} whole ({found.teacher.fingerprint})")
            )
        except TROUBLES as error:
            found.findings.append(Finding("error", about, error_text(error)))
            found.teacher = _untrained(cfg, name, node)
        found.said = _said(node.WEIGHTS)
        found.classes = tuple(map(str, found.said.get("classes") or ())) or _classes(node)
        yield found


def known_classes(cfg: CfgNode) -> tuple[str, ...]:
    """Return the names of the classes of a config's data; () if they are not known."""
    names = class_names(cfg)
    return () if names == tuple(f"class {i}" for i in range(len(names))) else names


def _untrained(cfg: CfgNode, name: str, node: CfgNode) -> Teacher | None:
    """The network of a teacher with random weights, for what can be said of it all the same."""
    try:
        return as_teacher(_network(cfg, name, node).to(cfg.MODEL.DEVICE))
    except TROUBLES:
        return None


def _network(cfg: CfgNode, name: str, node: CfgNode) -> nn.Module:
    path = model_zoo.find_config(node.CONFIG)
    if path.endswith(".py"):
        return build_lazy_model(path, node.OPTS, f"teacher {name!r}")
    return build_student(_own_config(node), cfg.MODEL.DEVICE)


def _own_config(node: CfgNode) -> CfgNode:
    own = get_cfg()
    merge_file(own, model_zoo.find_config(node.CONFIG))
    merge_options(own, list(node.OPTS), "OPTS")
    return own


def _classes(node: CfgNode) -> tuple[str, ...]:
    """The names of the classes of the data that the teacher's own config names."""
    if not node.CONFIG or node.CONFIG.endswith(".py"):
        return ()
    try:
        own = _own_config(node)
        register_from_config(own)
        return known_classes(own)
    except TROUBLES:
        return ()


def _said(weights: str) -> Mapping[str, Any]:
    """What a checkpoint of this package says of its network beside the tensors."""
    if not os.path.isfile(weights):
        return {}
    try:
        note = load_model_file(weights).get(NETWORK)
    except TROUBLES:
        return {}
    return note if isinstance(note, Mapping) else {}
