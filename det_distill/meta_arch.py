"""The registry border: `Distiller` and `ParaphraserPretrainer` as detectron2 meta-architectures, named in YAML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from . import distiller, paraphrasers
from .config import build_student, build_teacher, build_teachers, complete_config
from .pair_config import build_pairs
from .pairs import Pairs
from .randomness import kept_random_state
from .taps import feature_spec
from .teachers import Teacher, Teachers

__all__ = ["Distiller", "ParaphraserPretrainer"]


def _storage() -> EventStorage | None:
    try:
        return get_event_storage()
    except AssertionError:
        return None


@META_ARCH_REGISTRY.register()
class Distiller(distiller.Distiller):
    """`det_distill.distiller.Distiller` that a config builds: ``MODEL.META_ARCHITECTURE: "Distiller"``.

    The schedules' clock is the trainer's iteration; outside of a trainer, the number of training forwards.

    Args:
        student: see there.
        pairs: `Pairs`, or a mapping that names methods as ``DISTILL.PAIRS`` does, name -> {METHOD, AT, WEIGHT, ...},
            with the same keys, defaults and checks; a dict, or what LazyConfig makes of one. The random stream is
            left where it was, as it is when a YAML config builds them.
        teachers: see there.
        kwargs: see there.

    Raises:
        ValueError: see there, and what is wrong with a pair of the mapping, beginning with its name, ``pairs.<name>``.
        FileNotFoundError: a file that a method of the mapping needs is missing.
    """

    @configurable
    def __init__(
        self,
        student: nn.Module,
        pairs: Pairs | Mapping[str, Any] | None = None,
        teachers: Mapping[str, Teacher | nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(pairs, Mapping):
            teachers = teachers if isinstance(teachers, Teachers) else Teachers(**(teachers or {}))
            with kept_random_state():
                pairs = build_pairs(pairs, student, teachers, where="pairs")
        super().__init__(student, pairs, teachers, **kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build student, teachers and pairs; the random stream is left where the plain student leaves it."""
        student = build_student(cfg)
        if not cfg.DISTILL.ENABLED:
            return {"student": student}
        cfg = cfg.clone()
        complete_config(cfg)
        with kept_random_state():
            teachers = build_teachers(cfg)
            pairs = build_pairs(cfg.DISTILL.PAIRS, student, teachers)
        return {
            "student": student,
            "pairs": pairs,
            "teachers": teachers,
            "task_weight": cfg.DISTILL.TASK_WEIGHT,
            "train_only": list(cfg.DISTILL.TRAIN_ONLY),
        }

    @property
    def iteration(self) -> int:
        """The trainer's iteration."""
        storage = _storage()
        return super().iteration if storage is None or self._clock else int(storage.iter)


@META_ARCH_REGISTRY.register()
class ParaphraserPretrainer(paraphrasers.ParaphraserTrainee):
    """`ParaphraserTrainee` that a config builds: paraphrasers for every ``FactorTransfer`` pair of one teacher."""

    @configurable
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the teacher, and a paraphraser per address of the kind, rate and layers that the pair asks for.

        Raises:
            ValueError: no such pair, or two that want different paraphrasers at one address.
        """
        cfg = cfg.clone()
        complete_config(cfg)
        name = cfg.DISTILL.PARAPHRASER.TEACHER or next(iter(cfg.DISTILL.TEACHERS), "")
        if name not in cfg.DISTILL.TEACHERS or (
            len(cfg.DISTILL.TEACHERS) > 1 and not cfg.DISTILL.PARAPHRASER.TEACHER
        ):
            raise ValueError(
                f"DISTILL.PARAPHRASER.TEACHER {name!r}: name one of {', '.join(cfg.DISTILL.TEACHERS) or 'none'}"
            )
        teacher = build_teacher(cfg, name)
        sites = {
            address: paraphrasers.new_paraphraser(
                int(feature_spec(teacher.model, address).channels or 0), **wanted
            )
            for address, wanted in _wanted_sites(cfg, name).items()
        }
        return {
            "teacher": teacher,
            "sites": sites,
            "p": cfg.DISTILL.PARAPHRASER.P,
            "scaled": cfg.DISTILL.PARAPHRASER.SCALED,
            "input_format": cfg.INPUT.FORMAT,
            "log": _log,
        }


def _log(name: str, value: float) -> None:
    storage = _storage()
    if storage is not None:
        storage.put_scalar(name, value)


def _wanted_sites(cfg: CfgNode, teacher: str) -> dict[str, dict[str, Any]]:
    """Address -> the options of `new_paraphraser` that the pairs of this teacher ask for there."""
    sites: dict[str, dict[str, Any]] = {}
    for name, node in cfg.DISTILL.PAIRS.items():
        if node.METHOD != "FactorTransfer" or node.PARAPHRASER_KIND == "none":
            continue
        if not {"", "*", teacher} & set(node.TEACHER_NAMES or [node.TEACHER_NAME]):
            continue
        entries = node.TEACHER or node.AT
        for entry in [entries] if isinstance(entries, str) else entries:
            address = entry if isinstance(entry, str) else entry[0]
            wanted = {
                "kind": node.PARAPHRASER_KIND,
                "rate": node.RATE,
                "layers": node.LAYERS,
                "batch_norm": node.BATCH_NORM,
            }
            if sites.setdefault(address, wanted) != wanted:
                raise ValueError(
                    f"DISTILL.PAIRS.{name}: another pair wants a different paraphraser at {address!r}"
                )
    if not sites:
        raise ValueError(
            f"no FactorTransfer pair of teacher {teacher!r} says where paraphrasers are to be trained "
            "(PARAPHRASER_KIND 'none' needs none)"
        )
    return sites
