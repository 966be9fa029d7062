"""Every pair of a config alone, so that what is wrong with one does not hide what is wrong with another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage
from torch import nn

from ..distiller import Distiller
from ..hooks import calibrate_hashes
from ..nodes import plain
from ..pair_config import build_pairs
from ..pairs import Pair, Pairs
from ..randomness import kept_random_state
from ..taps import FeatureSpec, feature_spec
from ..teachers import Teacher
from .findings import TROUBLES, Finding, error_text

__all__ = ["BuiltPair", "check_pair", "check_step"]


@dataclass(frozen=True)
class BuiltPair:
    """A pair that fits, and the names of its teachers."""

    name: str
    pair: Pair
    teachers: tuple[str, ...]


def check_pair(
    cfg: CfgNode, name: str, student: nn.Module, teachers: Mapping[str, Teacher]
) -> Iterator[Finding | BuiltPair]:
    """Build what one entry of ``DISTILL.PAIRS`` describes, each place of its ``AT`` alone.

    Args:
        cfg: the config.
        name: of the entry.
        student: the student.
        teachers: those that could be built.

    Yields:
        A finding for each place, behind the pair that it is about if that fits.
    """
    missing = [t for t in cfg.DISTILL.TEACHERS if t not in teachers]
    for place, node in _places(plain(cfg.DISTILL.PAIRS[name])):
        about = f"pair {name}{f' at {place}' if place else ''}"
        try:
            with kept_random_state():
                built = build_pairs({name: node}, student, teachers).by_name()
                for full, pair in built.items():
                    used = pair.teacher_names or (tuple(teachers) if pair.teacher else ())
                    Distiller(student, Pairs(**{full: pair}), {t: teachers[t] for t in used})
                    yield BuiltPair(full, pair, used)
                    yield Finding(
                        "ok", f"pair {full}", _described(pair, student, [teachers[t] for t in used])
                    )
        except TROUBLES as error:
            hint = f" (not built: teacher {', '.join(missing)})" if missing else ""
            yield Finding(
                "error", about, f"{error_text(error).removeprefix(f'DISTILL.PAIRS.{name}: ')}{hint}"
            )


def _places(node: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A pair's node with each entry of its AT alone."""
    entries = node.get("AT")
    if not isinstance(entries, list) or len(entries) < 2:
        yield "", dict(node)
        return
    for entry in entries:
        yield str(entry), {**node, "AT": [entry]}


def _described(pair: Pair, student: nn.Module, teachers: Sequence[Teacher]) -> str:
    parts = [f"student {_places_of(student, pair.student)}"]
    parts += [f"teacher {_places_of(t.model, pair.teacher)}" for t in teachers]
    adapters = (pair.student_adapter, pair.teacher_adapter, pair.ensemble)
    made = ", ".join(type(a).__name__ for a in adapters if a is not None)
    losses = " + ".join(type(loss).__name__ for loss in pair.losses.values())
    return f"{'; '.join(parts)}; {losses}{f' behind {made}' if made else ''}"


def _places_of(model: nn.Module, addresses: Sequence[str]) -> str:
    return ", ".join(f"{a}{_shape(feature_spec(model, a))}" for a in addresses)


def _shape(spec: FeatureSpec) -> str:
    known = {"channels": spec.channels, "stride": spec.stride}
    texts = [
        f"{value} {key}" if key == "channels" else f"{key} {value}" for key, value in known.items() if value
    ]
    return f" ({', '.join(texts)})" if texts else ""


def check_step(distiller: Distiller, batch: Sequence[Mapping[str, Any]]) -> Finding:
    """Run one training step's forward pass on a batch: every tap must fire, and every loss must be finite.

    Args:
        distiller: the whole distillation; its batch normalisation sees the batch.
        batch: training samples.
    """
    try:
        calibrate_hashes(distiller, [batch])  # as a training does it before its first step
        with kept_random_state(), EventStorage(), torch.no_grad():
            losses = distiller.train()(batch)
    except TROUBLES as error:
        return Finding("error", "one training step", error_text(error))
    terms = {k: float(v) for k, v in losses.items() if k.startswith("distill_")}
    wrong = [k for k, v in losses.items() if not bool(torch.isfinite(v).all())]
    if wrong:
        return Finding("error", "one training step", f"not finite: {', '.join(wrong)}")
    shown = ", ".join(f"{k} {v:.3g}" for k, v in terms.items()) or "no distillation term"
    return Finding("ok", "one training step", f"every tap fires and every loss is finite: {shown}")
