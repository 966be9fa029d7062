"""YAML files that may be hostile: values only, no Python objects, no text of a few lines that grows to gigabytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from fvcore.common.config import BASE_KEY

from .files import FileError, checked_address

__all__ = ["SafeCfgNode", "load_config_file", "load_yaml", "make_config_safe"]

_MOST_NODES = 1_000_000
_PYTHON = "tag:yaml.org,2002:python/"
_EXPRESSIONS: dict[str, list[list[float]]] = {
    "[[x,x*2**(1.0/3),x*2**(2.0/3)]forxin[32,64,128,256,512]]": [
        [x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)
    ]
}
"""Of the expressions that a config may hold, by their text without spaces: that of detectron2's Base-RetinaNet.yaml."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with tuples and `_EXPRESSIONS`; the text's size with every alias written out is bounded."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _expanded(node, {}) > _MOST_NODES:
            raise yaml.YAMLError(f"its aliases (*name) stand for more than {_MOST_NODES} values")
        return node


def _tuple(loader: yaml.SafeLoader, node: Any) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


def _expression(loader: yaml.SafeLoader, node: Any) -> Any:
    values = loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
    text = "".join("".join(map(str, values)).split())
    if text not in _EXPRESSIONS:
        return loader.construct_undefined(node)
    return _EXPRESSIONS[text]


_Loader.add_constructor(f"{_PYTHON}tuple", _tuple)
_Loader.add_constructor(f"{_PYTHON}object/apply:eval", _expression)


def _expanded(node: Any, sizes: dict[int, int]) -> int:
    """How many values a node stands for, those of its aliases each time."""
    if id(node) in sizes:
        if sizes[id(node)] < 0:
            raise yaml.YAMLError("an alias (*name) stands for what it is in")
        return sizes[id(node)]
    sizes[id(node)] = -1
    inside: Iterator[Any] = iter(())
    if isinstance(node, yaml.SequenceNode):
        inside = iter(node.value)
    elif isinstance(node, yaml.MappingNode):
        inside = (part for pair in node.value for part in pair)
    size = 1
    for part in inside:
        size += _expanded(part, sizes)
    sizes[id(node)] = size
    return size


def load_yaml(file: str | Path) -> Any:
    """Return the content of a YAML file, or of any address that detectron2's ``PathManager`` knows.

    Raises:
        FileNotFoundError: there is no such file.
        FileError: it is no YAML, nested too deeply, or has a tag that stands for a Python object; says where.
    """
    try:
        with PathManager.open(checked_address(str(file)), "r") as text:
            return yaml.load(text, _Loader)
    except yaml.constructor.ConstructorError as error:
        raise FileError(_refused(file, error)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise error if isinstance(error, FileError) else FileError(f"{file} is no YAML: {error}") from error
    except RecursionError:
        raise FileError(f"{file} is no YAML that can be read: it is nested too deeply") from None


def _refused(file: str | Path, error: yaml.constructor.ConstructorError) -> str:
    line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
    tag = str(error.problem or error.context).partition(_PYTHON)[2].rstrip("'")
    if not tag:
        return f"{file} is no YAML: {error}"
    return (
        f"{file}{line}: the tag !!python/{tag} is refused, because such a tag can run any program; nothing of it was "
        "run. Write the value itself"
    )


def load_config_file(file: str, below: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the content of a config file, with what it inherits from the files that it names as ``_BASE_``.

    As ``CfgNode.load_yaml_with_base``: a relative path of a base starts at the file that names it, several bases are a
    list, and what the file says itself comes last.

    Args:
        file: a file or URL.
        below: the files that led here.

    Raises:
        FileNotFoundError: it, or a base, does not exist.
        FileError: what `load_yaml` says of it or of a base; no table; a key that is no text; a file that is its own
            base; a key that is a table in one and a value in the other.
    """
    if file in below or len(below) > 50:
        raise FileError(f"{below[0]}: {BASE_KEY} leads back to {file}")
    content = load_yaml(file)
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FileError(f"{file} is no config: it must hold KEY: VALUE lines")
    _check_keys(content, file)
    bases = content.pop(BASE_KEY, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        inherited = load_config_file(_beside(str(base), file), (*below, file))
        _merge(inherited, merged, file)
    _merge(content, merged, file)
    return merged


def _check_keys(table: dict[Any, Any], file: str, path: str = "") -> None:
    for key, value in table.items():
        if not isinstance(key, str):
            raise FileError(
                f"{file}: {key!r} in {path} is no name of a key: keys are texts, so mend or quote it"
            )
        if isinstance(value, dict):
            _check_keys(value, file, f"{path}.{key}".lstrip("."))


def _check_tables(content: dict[str, Any], cfg: CfgNode, file: str, path: str = "") -> None:
    for key, value in content.items():
        known = cfg.get(key)
        if not isinstance(known, CfgNode):
            continue
        where = f"{path}.{key}".lstrip(".")
        if not isinstance(value, dict):
            raise FileError(
                f"{file}: {where} is {value!r}, but must be a table of KEY: VALUE lines, such as those of "
                f"{', '.join(list(known)[:3]) or 'names that you choose'}; without any, take {where} out"
            )
        _check_tables(value, known, file, where)


def _beside(base: str, file: str) -> str:
    base = os.path.expanduser(base) if base.startswith("~") else base
    if base.startswith(("/", "https://", "http://")):
        return base
    return os.path.join(os.path.dirname(file), base)


def _merge(new: dict[str, Any], into: dict[str, Any], file: str) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and key in into:
            if not isinstance(into[key], dict):
                raise FileError(f"{file}: {key} is a table here and a value in its {BASE_KEY}")
            _merge(value, into[key], file)
        else:
            into[key] = value


class SafeCfgNode(CfgNode):
    """detectron2's config, but its files are read by `load_config_file`: detectron2's own reading can run code.

    Only the outermost node is one; the nodes in it are detectron2's.
    """

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """Return the content of a file and its bases; ``allow_unsafe`` changes nothing."""
        return load_config_file(filename)

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        """Merge a file and its bases; ``allow_unsafe`` changes nothing.

        Raises:
            FileError: see `load_config_file`; or a value where the config has a table.
        """
        if PathManager.isfile(cfg_filename):
            _check_tables(load_config_file(cfg_filename), self, cfg_filename)
        super().merge_from_file(cfg_filename, allow_unsafe=False)

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        """What yacs makes of a value when it merges: of a table one of detectron2's nodes, as all inner ones are."""
        return CfgNode._decode_cfg_value(value)


def make_config_safe(cfg: CfgNode) -> None:
    """Make a config of detectron2 one whose files are read safely, in place; its copies will be such, too."""
    if type(cfg) is CfgNode:
        object.__setattr__(cfg, "__class__", SafeCfgNode)  # as an attribute it would be a key
