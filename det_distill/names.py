"""Keys and names that a config gives and that do not exist: told by the place where they stand, with those that do."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    RPN_HEAD_REGISTRY,
)

__all__ = ["check_names", "check_options", "did_you_mean", "unknown_key", "unknown_key_of_file"]

_REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "DISTILL.STUDENT_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "MODEL.ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
}
_OTHERS = {"MODEL.PROPOSAL_GENERATOR.NAME": ["PrecomputedProposals"]}  # values that stand for no class


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return " (did you mean A or B?)" with the nearest of `names`, in whatever case, or ""."""
    spelt = {known.upper(): known for known in names}
    near = difflib.get_close_matches(name.upper(), spelt, n=3)
    return f" (did you mean {' or '.join(spelt[n] for n in near)}?)" if near else ""


def unknown_key(cfg: CfgNode, key: str) -> str:
    """Return what is wrong with a key such as ``SOLVER.MAX_ITERS``, and which there are; "" if there is one.

    A key of the same name in another node counts as near.
    """
    node, path = cfg, key.split(".")
    for depth, part in enumerate(path):
        above = ".".join(path[:depth])
        if not isinstance(node, CfgNode):
            return f"unknown key {key}: {above} has a value and no keys"
        if part not in node:
            near = did_you_mean(part, node)
            if not near and part == path[-1]:
                namesakes = [k for k in _keys(cfg) if k.endswith(f".{part}")][:3]
                near = f" (did you mean {' or '.join(namesakes)}?)" if namesakes else ""
            return f"unknown key {key}{near}; {above or 'a config'} has {', '.join(sorted(node)) or 'none'}"
        node = node[part]
    return ""


def _keys(node: CfgNode, above: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield above + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{above}{key}.")


def unknown_key_of_file(cfg: CfgNode, file: str) -> str:
    """Return what `unknown_key` says of the first unknown key in a YAML file, or in those it is based on.

    It begins with the file and line of the key. "" if every key is known.
    """
    with open(file) as text:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    for key, line in _written_keys(cfg, root):
        wrong = unknown_key(cfg, key)
        if wrong:
            return f"{file}, line {line}: {wrong}"
    return next(filter(None, (unknown_key_of_file(cfg, base) for base in _bases(root, file))), "")


def _written_keys(node: Any, written: Any, above: str = "") -> Iterator[tuple[str, int]]:
    """Yield each key that stands in a mapping of a YAML file, and its line, as far as the config has such nodes.

    What stands below a new teacher, pair or data set is theirs to check.
    """
    if not isinstance(written, yaml.MappingNode) or not isinstance(node, CfgNode) or node.is_new_allowed():
        return
    for key, value in written.value:
        if not above and key.value == "_BASE_":
            continue
        yield above + key.value, key.start_mark.line + 1
        yield from _written_keys(node.get(key.value), value, f"{above}{key.value}.")


def _bases(root: Any, file: str) -> list[str]:
    """The files that a YAML file names as ``_BASE_``, as far as they lie on this machine."""
    values = [v for k, v in root.value if k.value == "_BASE_"] if isinstance(root, yaml.MappingNode) else []
    nodes = [n for v in values for n in (v.value if isinstance(v, yaml.SequenceNode) else [v])]
    paths = [os.path.join(os.path.dirname(file), os.path.expanduser(str(node.value))) for node in nodes]
    return [path for path in paths if os.path.isfile(path)]


def check_options(cfg: CfgNode, words: Sequence[Any], where: str) -> None:
    """See that words are KEY VALUE pairs, each with a key of the config.

    Args:
        cfg: the config that they are for.
        words: KEY, VALUE, KEY, ...
        where: the words' place, for messages.

    Raises:
        ValueError: an option of the command among them, ``KEY=VALUE``, an unknown key, or a key without a value.
    """
    options = [str(word) for word in words if str(word).startswith("--")]
    if options:
        raise ValueError(
            f"{where}: options come before the KEY VALUE pairs: put {' '.join(options)} in front of {words[0]}"
        )
    if "=" in map(str, words):
        raise ValueError(f"{where}: KEY VALUE pairs are written with a space and without '=': SEED 1")
    for key in map(str, words[::2]):
        if cfg.key_is_deprecated(key) or cfg.key_is_renamed(key):
            continue  # yacs says what became of it
        name, equals, value = key.partition("=")
        if equals:
            raise ValueError(f"{where}: {key!r} is written with a space: {name or 'KEY'} {value or 'VALUE'}")
        wrong = unknown_key(cfg, key)
        if wrong:
            quoted = (
                "" if key[:1].isalpha() else ". A value with spaces stands in quotes: SOLVER.STEPS '(10, 20)'"
            )
            raise ValueError(f"{where}: {wrong}{quoted}")
    if len(words) % 2:
        raise ValueError(f"{where}: {words[-1]} has no value: what follows the options are KEY VALUE pairs")


def check_names(cfg: CfgNode) -> None:
    """See that the classes and functions that a config names are registered.

    Raises:
        ValueError: one is not; the message lists those that are.
    """
    wrapped = cfg.MODEL.META_ARCHITECTURE in ("Distiller", "ParaphraserPretrainer")
    for key, registry in _REGISTRIES.items():
        name: Any = cfg
        for part in key.split("."):
            name = (
                name.get(part) if isinstance(name, CfgNode) else None
            )  # a plain detectron2 config has fewer keys
        known = sorted([*dict(registry), *_OTHERS.get(key, ())])
        if not name or name in known or (key == "DISTILL.STUDENT_ARCHITECTURE" and not wrapped):
            continue
        raise ValueError(
            f"{key} {name!r} is unknown{did_you_mean(name, known)}; there are {', '.join(known)}"
        )
