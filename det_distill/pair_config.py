"""`DISTILL.PAIRS`: the keys of a pair, and how its node becomes `Pair` objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from torch import nn

from .methods import METHODS, Parts, Side, method_options
from .pairs import Pair, Pairs
from .selection import Selection
from .taps import AddressError, FeatureSpec, feature_spec, resolve
from .targets import class_count
from .teachers import Teacher

__all__ = ["PAIR_KEYS", "build_pairs"]

PAIR_KEYS: dict[str, Any] = {
    "METHOD": "",
    "AT": [],
    "STUDENT": "",
    "TEACHER": "",
    "TEACHER_NAME": "",
    "TEACHER_NAMES": [],
    "AGGREGATE": "sum",
    "SELECT": "all",
    "WEIGHT": 1.0,
    "START": 0,
    "STOP": -1,
    "WARMUP": 0,
    "ALIGN": "crop",
    "STUDENT_CHANNELS": 0,
    "TEACHER_CHANNELS": 0,
}
LABELLED_PROPOSALS = "roi_heads:0"


class _Site(NamedTuple):
    """What one pair compares: the suffix of its name, the addresses in the student and in the teacher."""

    suffix: str
    student: tuple[str, ...]
    teacher: tuple[str, ...]


class _Made(NamedTuple):
    """What a method made of one site and one teacher."""

    student: Side
    teacher: Side | None
    parts: Parts


def build_pairs(cfg: CfgNode, student: nn.Module, teachers: Mapping[str, Teacher]) -> Pairs:
    """Build every pair of the config.

    Raises:
        ValueError: what is wrong with a pair, beginning with its name in the config.
        FileNotFoundError: a file that a method needs is missing.
    """
    pairs: dict[str, Pair] = {}
    for name, node in cfg.DISTILL.PAIRS.items():
        try:
            for site in _sites(node):
                for suffix, pair in _pairs(node, site, student, teachers).items():
                    full = "_".join(filter(None, [name, suffix, site.suffix]))
                    if full in pairs:
                        raise ValueError(
                            f"{site.student[0]!r} makes a second pair named {full!r}: rename one, or use STUDENT and "
                            "TEACHER"
                        )
                    pairs[full] = pair
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"DISTILL.PAIRS.{name}: {error}") from error
    return Pairs(**pairs)


def _teacher_free(node: CfgNode) -> bool:
    return bool(getattr(METHODS[node.METHOD], "teacher_free", False))


def _sites(node: CfgNode) -> list[_Site]:
    """Every place that a node names; an entry of AT, STUDENT or TEACHER may be a list of addresses."""
    free = _teacher_free(node)
    if bool(node.AT) == bool(node.STUDENT) or (bool(node.STUDENT) != bool(node.TEACHER) and not free):
        raise ValueError("give either AT (the same address on both sides) or both STUDENT and TEACHER")
    if node.STUDENT:
        return [_Site("", _tuple(node.STUDENT), () if free else _tuple(node.TEACHER))]
    entries = [_tuple(entry) for entry in ([node.AT] if isinstance(node.AT, str) else node.AT)]
    named = not isinstance(node.AT, str)
    return [_Site(_suffix(own) if named else "", own, () if free else own) for own in entries]


def _tuple(addresses: str | Sequence[str]) -> tuple[str, ...]:
    return (addresses,) if isinstance(addresses, str) else tuple(addresses)


def _suffix(addresses: Sequence[str]) -> str:
    """``backbone:p2`` -> p2, ``roi_heads.box_head`` -> box_head, ``rpn_head:0:2`` -> rpn_head_0_2, two: p3_p4."""
    parts = []
    for address in addresses:
        path, *keys = address.replace("@", ":").replace("#", ":").split(":")
        named = [k for k in keys if not k.isdigit()]
        parts.append(named[-1] if named else "_".join([_tail(path), *keys]))
    return "_".join(parts)


def _tail(path: str) -> str:
    """The last part of a module's path, with the one before it where that is a number: ``res4.0`` -> res4_0."""
    *before, last = path.split(".")
    return f"{before[-1]}_{last}" if last.isdigit() and before else last


def _pairs(
    node: CfgNode, site: _Site, student: nn.Module, teachers: Mapping[str, Teacher]
) -> dict[str, Pair]:
    """The pairs of one site, by the teacher's name where there is one for each of several."""
    if not site.teacher:
        return {"": _pair(node, _make(node, site, student, None), student, ())}
    if node.TEACHER_NAMES and node.TEACHER_NAME:
        raise ValueError("give TEACHER_NAME (one teacher) or TEACHER_NAMES (several), not both")
    names = list(teachers) if list(node.TEACHER_NAMES) == ["*"] else list(node.TEACHER_NAMES)
    if not names:
        made = _make(node, site, student, _named_teacher(node.TEACHER_NAME, teachers))
        return {"": _pair(node, made, student, (node.TEACHER_NAME,) if node.TEACHER_NAME else ())}
    if node.AGGREGATE not in ("sum", "mean"):
        raise ValueError(f"AGGREGATE {node.AGGREGATE!r}: choose 'sum' or 'mean'")
    several = [_named_teacher(name, teachers) for name in names]
    first = _make(node, site, student, several[0])
    if first.parts.ensemble is not None:
        return {"": _pair(node, first, student, tuple(names))}
    share = 1 / len(names) if node.AGGREGATE == "mean" else 1.0
    each = [first, *(_make(node, site, student, teacher) for teacher in several[1:])]
    return {name: _pair(node, made, student, (name,), share) for name, made in zip(names, each, strict=True)}


def _make(node: CfgNode, site: _Site, student: nn.Module, teacher: Teacher | None) -> _Made:
    own = Side(site.student, tuple(_spec(student, a, node.STUDENT_CHANNELS) for a in site.student))
    its = None
    if teacher is not None:
        specs = tuple(_spec(teacher.model, a, node.TEACHER_CHANNELS) for a in site.teacher)
        its = Side(site.teacher, specs, teacher)
    options = {k: node[k.upper()] for k in method_options(node.METHOD)}
    return _Made(own, its, METHODS[node.METHOD](own, its, **options))


def _pair(node: CfgNode, made: _Made, student: nn.Module, names: tuple[str, ...], share: float = 1.0) -> Pair:
    own, its, parts = made
    total = node.WEIGHT * share
    return Pair(
        own.addresses,
        its.addresses if its else (),
        parts.loss,
        weight={n: total * w for n, w in parts.weights.items()} if parts.weights else total,
        start=node.START,
        stop=None if node.STOP < 0 else node.STOP,
        warmup=node.WARMUP,
        teacher_name=names or None,
        student_adapter=parts.student_adapter,
        teacher_adapter=parts.teacher_adapter,
        ensemble=parts.ensemble,
        select=_selection(node, own, its.teacher if its else None),
        align=node.ALIGN,
        stride=[s.stride for s in own.specs],
        teacher_stride=[s.stride for s in its.specs] if its else None,
        labels=LABELLED_PROPOSALS if own.addresses[0].startswith("roi_heads.") else None,
        classes=class_count(student),
    )


def _selection(node: CfgNode, student: Side, teacher: Teacher | None) -> Selection:
    logits = None
    if node.SELECT == "teacher_correct" and teacher is not None:
        roi = student.addresses[0].startswith("roi_heads.")
        logits = "roi_heads.box_predictor:0" if roi else "classifier"
        try:
            resolve(teacher.model, logits)
        except AddressError:
            logits = None
    strides = [spec.stride for spec in student.specs] if student.specs[0].stride else None
    return Selection(node.SELECT, strides=strides, logits=logits)


def _named_teacher(name: str, teachers: Mapping[str, Teacher]) -> Teacher:
    if not name and len(teachers) == 1:
        return next(iter(teachers.values()))
    if name not in teachers:
        raise ValueError(
            f"TEACHER_NAME {name!r}: the teachers are {', '.join(teachers) or 'none (DISTILL.TEACHERS)'}"
        )
    return teachers[name]


def _spec(model: nn.Module, address: str, channels: int) -> FeatureSpec:
    spec = feature_spec(model, address)
    return spec._replace(channels=channels) if channels else spec
