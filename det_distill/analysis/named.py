"""Networks as they are named on a command line: ``name=config:weights`` and ``name=weights``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Network", "parse_networks", "parse_students"]


class Network(NamedTuple):
    """A trained network: what reports call it, its config's file or zoo name, its weights' file or URL."""

    name: str
    config: str
    weights: str


def parse_networks(texts: Iterable[str]) -> list[Network]:
    """Read ``name=config:weights``; the weights may be a URL.

    Raises:
        ValueError: another form, or a name that comes twice.
    """
    found = []
    for name, rest in _named(
        texts, "NAME=CONFIG:WEIGHTS, for example big=mine/teacher.yaml:mine/teacher.pth"
    ):
        config, _, weights = rest.partition(":")
        if not config or not weights:
            raise ValueError(
                f"{name}={rest}: a network is named as NAME=CONFIG:WEIGHTS, and here is no "
                f"{'config' if not config else 'file of weights'}"
            )
        found.append(Network(name, config, weights))
    return found


def parse_students(texts: Iterable[str]) -> dict[str, str]:
    """Read ``name=weights``.

    Raises:
        ValueError: another form, or a name that comes twice.
    """
    return dict(_named(texts, "NAME=WEIGHTS, for example distilled=output/mine/distilled/model_final.pth"))


def _named(texts: Iterable[str], form: str) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        if not (name and equals and rest):
            raise ValueError(f"{text!r} is not of the form {form}")
        if name in found:
            raise ValueError(f"two networks are named {name!r}: reports could not tell them apart")
        found[name] = rest
    return list(found.items())
