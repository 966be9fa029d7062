"""``torch.compile`` for the backbones of student and teachers; names, taps and hooks stay what they are.

A tap is a forward hook on a module, and compiled code does not stop at the modules inside it. So it is not the model
that is compiled but its backbone, or, where a pair taps something inside the backbone, each largest part of it with no
tap inside. A hook on such a part itself is called as ever: only the part's ``forward`` is exchanged.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from .distiller import Distiller
from .taps import module_path

__all__ = ["compile_backbones"]

logger = logging.getLogger(__name__)

_VERSIONS = 64
"""Compiled versions that a method may have. Parts of one class share theirs, in train and eval mode, in student and
teachers, for each width and size of images; beyond the limit, which is 8 in torch, they would not be compiled."""


def compile_backbones(model: nn.Module, backend: str) -> None:
    """Compile the backbone of `model`, and, if it is distilled, of its student and each teacher, in place.

    Compilation itself happens when a part runs for the first time, and again for another size of images, in eval mode,
    and so on. State-dict keys do not change; a deep copy compiles for itself.

    Args:
        model: a `Distiller`, or any model with a ``backbone``; another one is left as it is, with a warning.
        backend: one of torch's, such as ``"inductor"``.

    Raises:
        ValueError: an unknown backend, or a pair that differentiates a gradient, which compiled code cannot.
        RuntimeError: in the first step, if the backend fails, for example because it finds no C++ compiler.
    """
    _check(model, backend)
    parts = [(f"{owner}{path}", part) for owner, path, part in _parts(model)]
    if not parts:
        logger.warning("MODEL.COMPILE %r: %s has no backbone to compile", backend, type(model).__name__)
        return
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VERSIONS)
    # a step may go backwards several times, as DISTILL.GRADIENT_SHARE_PERIOD does
    torch._functorch.config.donated_buffer = False
    for name, part in parts:
        part.forward = _Compiled(part, name, backend)
    logger.info("compiled by %s: %s", backend, ", ".join(name for name, _ in parts))


def _check(model: nn.Module, backend: str) -> None:
    if backend not in torch._dynamo.list_backends(exclude_tags=()):
        raise ValueError(
            f"MODEL.COMPILE {backend!r} is unknown: choose one of {', '.join(torch._dynamo.list_backends())}, or '' "
            "to compile nothing"
        )
    pairs = model.distill.by_name() if isinstance(model, Distiller) else {}
    twice = [name for name, pair in pairs.items() if pair.differentiates_input]
    if twice:
        raise ValueError(
            f"MODEL.COMPILE {backend!r}: pair {', '.join(map(repr, twice))} differentiates the gradient of the pixels, "
            "which compiled code cannot: set MODEL.COMPILE to ''"
        )


class _Compiled:
    """The compiled ``forward`` of a module; compiles when it is called."""

    def __init__(self, module: nn.Module, name: str, backend: str) -> None:
        self._module, self._name, self._backend = module, name, backend
        self._run = torch.compile(type(module).forward.__get__(module), backend=backend)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._run(*args, **kwargs)
        except TorchDynamoException as error:
            why = " ".join(str(error).strip().split("\n\n")[0].split()) or type(error).__name__
            raise RuntimeError(
                f"MODEL.COMPILE {self._backend!r} cannot compile the {self._name}: {why} (set MODEL.COMPILE to '' to "
                "train without)"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> _Compiled:
        """Compile for the copy of the module: a copied bound method would still run the original."""
        return _Compiled(copy.deepcopy(self._module, memo), self._name, self._backend)


def _parts(model: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Yield whose it is, path and module of everything that is compiled."""
    if not isinstance(model, Distiller):
        yield from _parts_of(model, "", ())
        return
    pairs, teachers = model.distill.by_name().values(), model.teachers
    theirs = {address for pair in pairs for address in pair.teacher_addresses}
    own = {address for pair in pairs for address in pair.student_addresses}
    own.update(address for t in teachers.values() for address in t.student_addresses(theirs))
    yield from _parts_of(model.student, "student's ", own)
    for name, teacher in teachers.items():
        yield from _parts_of(teacher.model, f"{name}'s ", theirs)


def _parts_of(model: nn.Module, owner: str, addresses: Iterable[str]) -> Iterator[tuple[str, str, nn.Module]]:
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, nn.Module):
        modules = dict(model.named_modules())
        tapped = {modules[p] for p in map(module_path, addresses) if p in modules}
        for path, part in _untapped("backbone", backbone, tapped):
            yield owner, path, part


def _untapped(path: str, module: nn.Module, tapped: Collection[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield the largest modules in (or equal to) `module` with no tapped one inside; no single layers."""
    children = dict(module.named_children())
    if not children:
        return
    inside = any(m in tapped for m in module.modules() if m is not module)
    if not inside and type(module).forward is not nn.Module.forward:
        yield path, module
        return
    for name, child in children.items():
        yield from _untapped(f"{path}.{name}", child, tapped)
