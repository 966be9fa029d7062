"""A distillation's config as the plain student's, in keys that stock detectron2 knows wherever possible."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from ..classification import ImageClassifier
from ..config import get_cfg

__all__ = ["as_read", "builds", "needs_det_distill", "plain_config", "read_plain_config"]


def plain_config(cfg: CfgNode) -> CfgNode:
    """Return the config of the student of `cfg` alone.

    ``MODEL.META_ARCHITECTURE`` is the student's. Keys that detectron2 lacks are dropped, except those that differ from
    det_distill's defaults below ``MODEL``, which say how the student is built (but ``MODEL.COMPILE`` says how it is
    trained), and, of a classifier, in ``INPUT.CLASSIFICATION``, which says how its images are prepared.

    Raises:
        ValueError: `cfg` trains paraphrasers, which are no student.
    """
    plain = cfg.clone()
    plain.defrost()
    if plain.MODEL.META_ARCHITECTURE == "ParaphraserPretrainer":
        raise ValueError(
            "MODEL.META_ARCHITECTURE is ParaphraserPretrainer, which trains no student: give the config of "
            "the student's run"
        )
    if plain.MODEL.META_ARCHITECTURE == "Distiller":
        plain.MODEL.META_ARCHITECTURE = plain.DISTILL.STUDENT_ARCHITECTURE
    plain.MODEL.pop("COMPILE", None)
    kept = ("MODEL", "INPUT") if builds(plain.MODEL.META_ARCHITECTURE, ImageClassifier) else ("MODEL",)
    _drop_unknown(plain, get_detectron2_cfg(), get_cfg(), (), kept)
    return plain


def builds(architecture: str, kind: type) -> bool:
    """Whether a ``MODEL.META_ARCHITECTURE`` names a class that is `kind` or derived from it."""
    builder = META_ARCH_REGISTRY.get(architecture)
    return isinstance(builder, type) and issubclass(builder, kind)


def _drop_unknown(
    node: CfgNode, known: Mapping[str, Any], defaults: Any, path: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    for key in list(node):
        default = defaults.get(key) if isinstance(defaults, Mapping) else None
        if key not in known:
            if not path or path[0] not in kept or node[key] == default:
                del node[key]
        elif isinstance(node[key], CfgNode) and isinstance(known[key], CfgNode):
            _drop_unknown(node[key], known[key], default, (*path, key), kept)


def needs_det_distill(plain: CfgNode) -> bool:
    """Whether a plain config can only be built where det_distill is installed and imported.

    That is so when it has keys that detectron2 lacks, or when its backbone or architecture is det_distill's.
    """
    builders = [
        META_ARCH_REGISTRY.get(plain.MODEL.META_ARCHITECTURE),
        BACKBONE_REGISTRY.get(plain.MODEL.BACKBONE.NAME),
    ]
    return any(b.__module__.startswith("det_distill.") for b in builders) or _has_unknown(
        plain, get_detectron2_cfg()
    )


def _has_unknown(node: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    return any(
        key not in known
        or (
            isinstance(value, CfgNode) and isinstance(known[key], CfgNode) and _has_unknown(value, known[key])
        )
        for key, value in node.items()
    )


def read_plain_config(path: Path) -> CfgNode:
    """Return a written plain config, see `as_read`."""
    return as_read(path.read_text())


def as_read(text: str) -> CfgNode:
    """Return the text of a plain config as its user reads it: with detectron2's keys or, where it needs them, ours too.

    Raises:
        KeyError: it has keys beyond those.
    """
    found = CfgNode.load_cfg(text)  # which, other than detectron2's merge_from_file, cannot make any object
    cfg = get_cfg() if needs_det_distill(found) else get_detectron2_cfg()
    cfg.merge_from_other_cfg(found)
    return cfg
