"""`DISTILL.PAIRS`: the keys of a pair, what their values must be, and how its node becomes `Pair` objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from torch import nn

from .methods import METHODS, Parts, Side, method_options
from .nodes import Kind, completed, kind_of, nested_strings, number, plain
from .pairs import Pair, Pairs
from .selection import Selection
from .taps import AddressError, FeatureSpec, feature_spec, resolve
from .targets import class_count
from .teachers import Teacher

__all__ = ["PAIR_KEYS", "build_pairs", "complete_pair", "pair_kinds"]

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
_KINDS: dict[str, Kind] = {
    "AT": nested_strings(2),
    "STUDENT": nested_strings(1),
    "TEACHER": nested_strings(1),
    "TEACHER_NAMES": nested_strings(1, listed=True),
    "WEIGHT": number(1.0, least=0),
    "START": number(0, least=0),
    "STOP": number(0, least=-1),
    "WARMUP": number(0, least=0),
    "STUDENT_CHANNELS": number(0, least=0),
    "TEACHER_CHANNELS": number(0, least=0),
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


def _defaults(node: Any, where: str) -> dict[str, Any]:
    """Every key that a pair of the node's METHOD has, with its default."""
    method = node.get("METHOD") if isinstance(node, Mapping) else None
    if not method or not isinstance(method, str):
        raise ValueError(f"{where}: needs METHOD, one of {', '.join(sorted(METHODS))}")
    try:
        options = method_options(method)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return {**PAIR_KEYS, **{k.upper(): v for k, v in options.items()}}


def complete_pair(node: Any, where: str) -> dict[str, Any]:
    """Return a pair's node with every key of a pair and of its METHOD, each value of the type that it must have.

    Args:
        node: key -> value.
        where: the pair's name, for messages.

    Raises:
        ValueError: an unknown method or key, or a value that the key cannot have.
    """
    return completed(node, _defaults(node, where), where, pair_kinds(node, where))


def pair_kinds(node: Mapping[str, Any], where: str) -> dict[str, Kind]:
    """Return what each key of a pair's node must be.

    Raises:
        ValueError: no METHOD, or an unknown one.
    """
    return {key: _kind(key, value) for key, value in _defaults(node, where).items()}


def _kind(key: str, default: Any) -> Kind:
    """Of a method's options, too, weights and numbers of channels are not negative."""
    if key not in _KINDS and key.endswith(("_WEIGHT", "_CHANNELS")):
        return number(default, least=0)
    return _KINDS.get(key) or kind_of(default)


def build_pairs(
    nodes: Mapping[str, Any],
    student: nn.Module,
    teachers: Mapping[str, Teacher],
    *,
    where: str = "DISTILL.PAIRS",
) -> Pairs:
    """Build every pair of a mapping such as ``DISTILL.PAIRS``.

    Args:
        nodes: name -> keys and values, in dicts or in the containers of yacs or omegaconf.
        student: the model to train.
        teachers: by name.
        where: what messages call `nodes`.

    Raises:
        ValueError: what is wrong with a pair, beginning with its name in the config.
        FileNotFoundError: a file that a method needs is missing.
    """
    pairs: dict[str, Pair] = {}
    for name in nodes:
        node = CfgNode(complete_pair(plain(nodes[name]), f"{where}.{name}"))
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
            raise type(error)(f"{where}.{name}: {error}") from error
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
    if len(set(names)) < len(names):
        raise ValueError(f"TEACHER_NAMES {names}: a teacher is named twice")
    each = [_make(node, site, student, _named_teacher(name, teachers)) for name in names]
    if each[0].parts.ensemble is not None:
        if node.AGGREGATE != PAIR_KEYS["AGGREGATE"]:
            raise ValueError(
                f"AGGREGATE {node.AGGREGATE!r} is about several pairs, but {node.METHOD} makes one target of its "
                "teachers: leave AGGREGATE out (ENSEMBLE says how they are combined), or set ENSEMBLE: 'none'"
            )
        return {"": _pair(node, each[0], student, tuple(names), others=each[1:])}
    share = 1 / len(names) if node.AGGREGATE == "mean" else 1.0
    return {name: _pair(node, made, student, (name,), share) for name, made in zip(names, each, strict=True)}


def _make(node: CfgNode, site: _Site, student: nn.Module, teacher: Teacher | None) -> _Made:
    specs = tuple(_spec(student, a, node.STUDENT_CHANNELS) for a in site.student)
    own = Side(site.student, specs, model=student)
    its = None
    if teacher is not None:
        specs = tuple(_spec(teacher.model, a, node.TEACHER_CHANNELS) for a in site.teacher)
        its = Side(site.teacher, specs, teacher, teacher.model)
    options = {k: node[k.upper()] for k in method_options(node.METHOD)}
    return _Made(own, its, METHODS[node.METHOD](own, its, **options))


def _pair(
    node: CfgNode,
    made: _Made,
    student: nn.Module,
    names: tuple[str, ...],
    share: float = 1.0,
    others: Sequence[_Made] = (),
) -> Pair:
    own, its, parts = made
    teachers = [m.teacher.teacher for m in (made, *others) if m.teacher and m.teacher.teacher]
    labels = LABELLED_PROPOSALS if own.addresses[0].startswith("roi_heads.") else None
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
        select=_selection(node.SELECT, own, teachers, rois=labels is not None),
        align=node.ALIGN,
        stride=[s.stride for s in own.specs],
        teacher_stride=[s.stride for s in its.specs] if its else None,
        labels=labels,
        classes=class_count(student),
    )


def _selection(which: Any, student: Side, teachers: Sequence[Teacher], *, rois: bool) -> Selection:
    """What SELECT asks for; `rois`: whether the rows are the student's RoIs, else images."""
    strides = [spec.stride for spec in student.specs] if student.specs[0].stride else None
    if which == "foreground" and strides is None and not rois:
        raise ValueError(
            "SELECT 'foreground' is for rows of RoIs and for cells of maps whose stride is known, and "
            f"{student.addresses[0]!r} gives neither; of a classifier every row is an object: use 'all'"
        )
    logits: str | None = "roi_heads.box_predictor:0" if rois else "classifier"
    if which != "teacher_correct":
        logits = None
    for teacher in teachers if logits else ():
        own, its = class_count(student.model), class_count(teacher.model)
        if own is not None and its is not None and own != its:
            raise ValueError(
                f"SELECT 'teacher_correct' compares the teacher's class with the label, and the student has {own} "
                f"classes, the teacher {its}: take a teacher of the student's classes, or SELECT 'foreground' or 'all'"
            )
    if logits and not (teachers and all(_has(teacher.model, logits) for teacher in teachers)):
        logits = None
    return Selection(which, strides=strides, logits=logits)


def _has(model: nn.Module, address: str) -> bool:
    try:
        resolve(model, address)
    except AddressError:
        return False
    return True


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
