"""Record what named parts of a model compute, without touching the model.

An *address* is the path of a module, as in ``model.named_modules()``, followed by

* nothing: the module's output                       ``roi_heads.box_head``
* ``:key`` (several in a row): a part of that output  ``backbone:p3``, ``roi_heads.box_predictor:0``
* ``@input``: the module's first positional input     ``roi_heads.box_predictor@input``
* ``@input1``: its second one, and so on              ``roi_heads.pooler@input1``
* ``#n``: counting from 0, the n-th of several calls of the module in one forward pass   ``head.cls_subnet#2``
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["AddressError", "FeatureSpec", "FeatureTap", "TapError", "feature_spec", "module_path", "resolve"]


class AddressError(ValueError):
    """An address that names nothing in the model; raised when things are built."""


class TapError(RuntimeError):
    """A tap that did not record exactly one intact value in a forward pass."""


class FeatureSpec(NamedTuple):
    """What is known of a feature before anything runs: channels, and input pixels per cell."""

    channels: int | None = None
    stride: int | None = None


class _Address(NamedTuple):
    text: str
    module: str
    argument: int | None
    call: int | None
    keys: tuple[str, ...]


def _parse(address: str) -> _Address:
    head, *keys = address.split(":")
    head, nth, call = head.partition("#")
    path, at, what = head.partition("@")
    number = what.removeprefix("input")
    if nth and not call.isdigit():
        raise AddressError(f"address {address!r}: after '#' comes the number of a call, 0 for the first")
    if at and (not what.startswith("input") or not (number.isdigit() or not number)):
        raise AddressError(f"address {address!r}: after '@' comes 'input' or 'input1', not {what!r}")
    if not path or not all(keys):
        raise AddressError(
            f"address {address!r} is not of the form 'module.path', 'module.path:key' or 'module.path@input'"
        )
    return _Address(address, path, int(number or 0) if at else None, int(call) if nth else None, tuple(keys))


def module_path(address: str) -> str:
    """Return the path of the module that an address names."""
    return _parse(address).module


def _nearest(name: str, names: Iterable[str]) -> str:
    names = [n for n in names if n]
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[:5]
    return ", ".join(close)


def resolve(model: nn.Module, address: str) -> nn.Module:
    """Return the module that `address` names.

    Raises:
        AddressError: no such module; the message lists the nearest names.
    """
    path = _parse(address).module
    modules = dict(model.named_modules())
    if path not in modules:
        raise AddressError(
            f"address {address!r}: {type(model).__name__} has no module {path!r}. "
            f"Nearest: {_nearest(path, modules)}"
        )
    return modules[path]


def feature_spec(model: nn.Module, address: str) -> FeatureSpec:
    """Return channels and stride of the feature at `address`, as far as the model declares them.

    Read from the module's ``output_shape`` (a ``ShapeSpec`` or a mapping of them, as detectron2's backbones and
    heads have it), from the width of a linear or convolution layer, a block, or the last one inside a sequence, or,
    for an ``@input``, from the only width that the linear layers directly inside the module accept. A block of a
    stage has the stage's stride; one level of a head that runs on several, that of the level. Unknown values are None.

    Raises:
        AddressError: no such module, or a key that ``output_shape`` does not list.
    """
    parsed = _parse(address)
    module = resolve(model, address)
    if parsed.argument is not None:
        return FeatureSpec(channels=_only_width(module, parsed))
    shape = getattr(module, "output_shape", None)
    shape = shape() if callable(shape) else shape
    if isinstance(shape, Mapping):
        if len(parsed.keys) != 1 or parsed.keys[0] not in shape:
            raise AddressError(
                f"address {address!r}: {parsed.module!r} gives {', '.join(map(str, shape))}; "
                f"write for example '{parsed.module}:{next(iter(shape))}'"
            )
        shape = shape[parsed.keys[0]]
    if shape is not None:
        return FeatureSpec(getattr(shape, "channels", None), getattr(shape, "stride", None))
    classifier = getattr(module, "cls_score", None)
    if parsed.keys == ("0",) and isinstance(classifier, nn.Linear):
        return FeatureSpec(channels=classifier.out_features)
    level = _level_spec(model, parsed)
    return level or FeatureSpec(_width(module) if not parsed.keys else None, _stage_stride(model, parsed))


def _width(module: nn.Module) -> int | None:
    """Channels or features that leave a layer, a block, or the last of a sequence that tells."""
    for name in ("out_features", "out_channels"):
        if isinstance(getattr(module, name, None), int):
            return int(getattr(module, name))
    if isinstance(module, nn.Sequential):
        return next((w for w in map(_width, reversed(list(module))) if w is not None), None)
    return None


def _stage_stride(model: nn.Module, address: _Address) -> int | None:
    """The stride of the stage that a block is in: ``bottom_up.res4.3`` has that of ``bottom_up:res4``."""
    path = address.module.split(".")
    for end in range(len(path) - 1, 0, -1):
        owner = model.get_submodule(".".join(path[:end]))
        shapes = getattr(owner, "output_shape", None)
        shapes = shapes() if callable(shapes) else shapes
        if isinstance(shapes, Mapping):
            return getattr(shapes.get(path[end]), "stride", None)
    return None


_HEADS = {
    "proposal_generator.rpn_head": ("objectness_logits", "anchor_deltas"),
    "head": ("cls_score", "bbox_pred"),
}
"""Heads that run on every level: path in a detector -> the layers whose outputs they list, level by level."""


def _level_spec(model: nn.Module, address: _Address) -> FeatureSpec | None:
    """What is known of ``head:0:2`` (an output of a dense head, third level) and ``head.cls_subnet#2`` (its tower)."""
    path = next((p for p in _HEADS if address.module == p or address.module.startswith(p + ".")), None)
    if path is None or not hasattr(model, "backbone") or address.keys[2:]:
        return None
    owner = model.get_submodule("proposal_generator") if "." in path else model
    levels: Any = getattr(owner, "in_features", None) or getattr(owner, "head_in_features", ())
    inside = address.module != path
    keys = address.keys if not inside else ("", str(address.call))
    if len(keys) < 2 or not keys[1].isdigit() or int(keys[1]) >= len(levels):
        return None
    stride = getattr(model.backbone.output_shape().get(levels[int(keys[1])]), "stride", None)  # type: ignore[operator,union-attr]
    if inside:
        return FeatureSpec(_width(model.get_submodule(address.module)), stride)
    layer = getattr(model.get_submodule(path), _HEADS[path][int(keys[0])], None) if keys[0] in "01" else None
    return FeatureSpec(getattr(layer, "out_channels", None), stride)


def _only_width(module: nn.Module, address: _Address) -> int | None:
    layers = [module, *module.children()]
    widths = {m.in_features for m in layers if isinstance(m, nn.Linear)}
    return widths.pop() if len(widths) == 1 and not address.keys and address.argument == 0 else None


def _pick(value: Any, address: _Address) -> Any:
    for key in address.keys:
        try:
            by_name = isinstance(value, Mapping) and key in value
            value = value[key if by_name else int(key)]
        except (KeyError, IndexError, ValueError, TypeError):
            if isinstance(value, Mapping):
                has = "the keys " + ", ".join(map(str, value))
            elif isinstance(value, (list, tuple)):
                has = f"{len(value)} entries"
            else:
                has = f"a {type(value).__name__}"
            raise TapError(f"tap {address.text!r}: no {key!r} in the value, which has {has}") from None
    return value


class _Recorder:
    """Hook bodies of one recording: fills `values`, remembers each tensor's version."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    def take(self, address: _Address, value: Any) -> None:
        count = self.counts[address.text] = self.counts.get(address.text, 0) + 1
        if address.call is not None and count != address.call + 1:
            return
        value = _pick(value, address)
        self.values[address.text] = value
        if isinstance(value, Tensor):
            self.versions[address.text] = value._version

    def check(self, addresses: Iterable[_Address]) -> None:
        for address in addresses:
            text, count = address.text, self.counts.get(address.text, 0)
            if count == 0:
                raise TapError(f"tap {text!r} recorded nothing: that module did not run in this forward pass")
            if address.call is not None and count <= address.call:
                raise TapError(f"tap {text!r}: that module ran only {count} times in this forward pass")
            if address.call is None and count > 1:
                raise TapError(
                    f"tap {text!r} ran {count} times in one forward pass, so only its last value would be kept. "
                    f"Add '#0' to '#{count - 1}' to its path to say which, or tap the module around it and pick the "
                    "entry, for example 'proposal_generator.rpn_head:0:2'"
                )
            value = self.values[text]
            if isinstance(value, Tensor) and value._version != self.versions[text]:
                raise TapError(
                    f"the tensor at tap {text!r} was overwritten in place after it was recorded; "
                    "tap the module that overwrites it (a stage's or block's output) instead"
                )


class FeatureTap:
    """Records values at `addresses` while a `record()` block is open; outside of it the model has no hooks.

    Args:
        model: any module; it is not changed.
        addresses: see the head of this file.

    Raises:
        AddressError: an address that names no module.
    """

    def __init__(self, model: nn.Module, addresses: Iterable[str]) -> None:
        self._addresses = {text: _parse(text) for text in addresses}
        self._modules = {text: resolve(model, text) for text in self._addresses}

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address that this tap can record."""
        return tuple(self._addresses)

    @contextmanager
    def record(
        self, only: Collection[str] | None = None, *, differentiable: Collection[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Open a recording; yields the dict that the forward pass inside the block fills.

        Args:
            only: record just these addresses (default: all).
            differentiable: of these, the inputs (``@input``) are made to require a gradient as they are recorded, so
                that something can be differentiated with respect to them.

        Raises:
            TapError: at the end of the block, when an address was not reached, was reached more than once, or its
                tensor was overwritten in place; not raised over an exception of the block itself.
        """
        wanted = [a for t, a in self._addresses.items() if only is None or t in only]
        recorder = _Recorder()
        handles = []
        try:
            for address in wanted:
                handles.append(self._hook(address, recorder, address.text in differentiable))
            yield recorder.values
        finally:
            for handle in handles:
                handle.remove()
        recorder.check(wanted)

    def _hook(
        self, address: _Address, recorder: _Recorder, differentiable: bool
    ) -> torch.utils.hooks.RemovableHandle:
        module = self._modules[address.text]
        argument = address.argument
        if argument is not None:

            def before(_: nn.Module, args: tuple[Any, ...]) -> None:
                if len(args) <= argument:
                    raise TapError(
                        f"tap {address.text!r}: the module was called with {len(args)} positional inputs"
                    )
                if differentiable and isinstance(args[argument], Tensor):
                    args[argument].requires_grad_()
                recorder.take(address, args[argument])

            return module.register_forward_pre_hook(before)

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            recorder.take(address, output)

        return module.register_forward_hook(after)
