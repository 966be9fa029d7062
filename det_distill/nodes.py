"""A node of the config: a mapping of known keys, each with a value of the type of its default."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Kind", "completed", "kind_of", "nested_strings", "number", "plain", "read"]


class Kind(NamedTuple):
    """What a key's value must be: in words, and as a function that returns it or raises a ValueError."""

    wanted: str
    read: Callable[[Any], Any]


def number(default: int | float, least: float | None = None) -> Kind:
    """Return the kind of a finite number of the type of `default`, not below `least`.

    A text that reads as a number is one: YAML takes ``5e-7``, without a point, for a text.
    """
    whole = isinstance(default, int)

    def read(value: Any) -> int | float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        if whole and isinstance(value, int):
            found: int | float = value
        else:
            found = float(value)
            if not math.isfinite(found) or (whole and not found.is_integer()):
                raise ValueError
            found = int(found) if whole else found
        if least is not None and found < least:
            raise ValueError
        return found

    wanted = "a whole number" if whole else "a finite number"
    return Kind(wanted if least is None else f"{wanted}, at least {least}", read)


def nested_strings(depth: int, *, listed: bool = False) -> Kind:
    """Return the kind of a string, or a list of them, or of such lists: `depth` levels of lists at most.

    With `listed`, a string alone becomes a list of one, and an empty one an empty list.
    """

    def read(value: Any, depth: int = depth) -> Any:
        if isinstance(value, (list, tuple)) and depth:
            return [read(entry, depth - 1) for entry in value]
        if not isinstance(value, str):
            raise ValueError
        return value

    def as_list(value: Any) -> Any:
        found = read(value)
        return ([found] if found else []) if isinstance(found, str) else found

    wanted = "a string or a list of strings" + (" or of lists of strings" if depth > 1 else "")
    return Kind(wanted, as_list if listed else read)


def kind_of(default: Any) -> Kind:
    """Return what a key must be that has this default; anything will do for None."""
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        return number(default)
    if isinstance(default, bool):
        return Kind("True or False", _one_of(bool))
    if isinstance(default, str):
        return Kind("a string", _one_of(str))
    if isinstance(default, (list, tuple)):
        return Kind("a list", _one_of((list, tuple)))
    return Kind("anything", lambda value: value)


def _one_of(types: type | tuple[type, ...]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, types):
            raise ValueError
        return list(value) if isinstance(value, tuple) else value

    return read


def read(value: Any, kind: Kind, where: str) -> Any:
    """Return a key's value as its kind wants it.

    Raises:
        ValueError: it is something else; the message names `where`, the value and what is wanted.
    """
    try:
        return kind.read(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: {value!r} is not {kind.wanted}") from None


def completed(
    node: Any, defaults: Mapping[str, Any], where: str, kinds: Mapping[str, Kind] | None = None
) -> dict[str, Any]:
    """Return a node's own values, read as their kinds want them, and the defaults of the keys that it lacks.

    Args:
        node: key -> value.
        defaults: of every key that the node may have.
        where: the node's name, for messages.
        kinds: of keys whose default does not tell; see `kind_of` for the others.

    Raises:
        ValueError: no mapping, an unknown key (the message lists the valid ones) or a value of another kind.
    """
    if not isinstance(node, Mapping):
        raise ValueError(f"{where} must be a mapping with keys among {', '.join(defaults)}")
    unknown = [str(key) for key in node if key not in defaults]
    if unknown:
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}; valid are {', '.join(defaults)}")
    kinds = kinds or {}
    own = {
        key: read(value, kinds.get(key) or kind_of(defaults[key]), f"{where}.{key}")
        for key, value in node.items()
    }
    rest = {k: list(v) if isinstance(v, list) else v for k, v in defaults.items() if k not in own}
    return {**own, **rest}


def plain(value: Any) -> Any:
    """Return a mapping as dicts, a sequence as lists, all the way down: omegaconf's containers are neither."""
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(entry) for entry in value]
    return value
