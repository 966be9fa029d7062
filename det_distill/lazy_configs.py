"""Teachers whose config is a LazyConfig: the file is a program, but what a YAML file overrides in it is values only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detectron2.config import LazyConfig, instantiate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from torch import nn

from . import model_zoo
from .programs import tell_program

__all__ = ["build_lazy_model"]

_TARGET = "_target_"


def build_lazy_model(path: str, options: Sequence[Any], where: str) -> nn.Module:
    """Run a LazyConfig file and build its ``model``, untrained.

    A file that came neither with det_distill nor with detectron2 is told as a program, see `tell_program`.

    Args:
        path: of the file.
        options: ``key=value`` overrides, in hydra's grammar. Values are numbers, texts and lists and tables of them;
            what is called (``_target_``) they cannot say, nor can they refer to other values (``${...}``).
        where: whose config it is, for messages: "teacher 'big'".

    Raises:
        ValueError: an override that would call something, that is no ``key=value``, or that has no place in the
            config. Nothing of the file was run if the override itself shows it.
    """
    for option in options:
        _check(str(option), where)
    if not model_zoo.is_installed(path):
        tell_program(path, f"the CONFIG of {where}, is a program and is run now")
    cfg = LazyConfig.load(path)
    calls = list(_calls(cfg.model))
    try:
        cfg = LazyConfig.apply_overrides(cfg, [str(option) for option in options])
    except Exception as error:  # omegaconf has a class for each cause
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"OPTS of {where} do not fit {path}: {reason}") from error
    if not set(_calls(cfg.model)) <= set(calls):
        raise ValueError(f"OPTS of {where} are refused: they change what {path} calls")
    model: nn.Module = instantiate(cfg.model)
    return model


def _check(option: str, where: str) -> None:
    """Refuse an override that is more than a value at a key."""
    refused = f"OPTS of {where}: {option!r} is refused"
    try:
        override = OverridesParser.create().parse_override(option)
        value = override.value()
    except (HydraException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"OPTS of {where}: {option!r} is no override like key=value: {reason}") from error
    if override.is_delete() or override.is_sweep_override():
        raise ValueError(f"{refused}: it is no override like key=value")
    for text in (override.key_or_group, *_texts(value)):
        if _TARGET in text or "${" in text:
            raise ValueError(
                f"{refused}: with {_TARGET if _TARGET in text else '${...}'} it could call any program. OPTS may set "
                "values only; the CONFIG file says what is called"
            )


def _texts(value: Any) -> Iterator[str]:
    """Every text in a parsed value; what is neither text, number, list nor table is written out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif value is not None and not isinstance(value, bool | int | float):
        yield str(value)


def _calls(cfg: Any, path: str = "model") -> Iterator[tuple[str, str]]:
    """Everything that instantiating a config would call, with its place."""
    if isinstance(cfg, Mapping):
        if _TARGET in cfg:
            yield path, str(cfg[_TARGET])
        for key in cfg:
            yield from _calls(cfg[key], f"{path}.{key}")
    elif not isinstance(cfg, str) and isinstance(cfg, Sequence):
        for index, inner in enumerate(cfg):
            yield from _calls(inner, f"{path}.{index}")
