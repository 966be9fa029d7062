"""numpy's arrays and numbers in pickles, rebuilt without numpy's own unpickling, which can hold any object.

A pickle is a small program: it names functions and classes and calls them. Here every name that may occur stands for a
function of this module that checks what it is given. Nothing is imported because a file says so.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

__all__ = ["NUMPY", "RefusedName", "ZooUnpickler", "plain", "safe_for_torch"]

_TYPE = re.compile(r"[|<>=]?[biufcSU]\d{1,9}")
_ARRAY = "numpy.ndarray"
_MODULES = ("numpy.core", "numpy._core")  # before and since numpy 2


class RefusedName(pickle.UnpicklingError):
    """A pickle names a function or class that it may not.

    Attributes:
        name: ``module.name``.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"it names {name}")
        self.name = name


class _Global:
    """What a name in a pickle stands for: it can be called, and not be changed by the pickle."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class StoredType:
    """Stands for a ``numpy.dtype`` while a pickle is read: numbers, truth values and texts.

    Args:
        text: such as ``f4``.
        flags: of numpy; they concern other types.

    Raises:
        pickle.UnpicklingError: another type, such as that of Python objects.
    """

    def __init__(self, text: str | bytes, *flags: Any) -> None:
        name = text.decode("latin1") if isinstance(text, bytes) else text
        if not isinstance(name, str) or not _TYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"it has a numpy array of type {name!r}, not of numbers or texts")
        self.dtype: np.dtype[Any] = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, compound = state[1], state[2:5]
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "=") or any(part is not None for part in compound):
            raise pickle.UnpicklingError("it has a numpy array of a compound type")
        self.dtype = self.dtype.newbyteorder(cast(Any, order))


class StoredArray(np.ndarray):
    """Stands for a ``numpy.ndarray`` while a pickle is read; `plain` makes it one."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, raw = state
        raw, shape, dtype = _checked(raw, shape, kind)
        super().__setstate__(cast(Any, (1, shape, dtype, bool(fortran), raw)))


def _checked(raw: Any, shape: Any, kind: Any) -> tuple[bytes, tuple[int, ...], np.dtype[Any]]:
    raw = raw.encode("latin1") if isinstance(raw, str) else bytes(raw) if isinstance(raw, bytearray) else raw
    shape = (shape,) if isinstance(shape, int) else shape
    sizes = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    if not isinstance(kind, StoredType) or not isinstance(raw, bytes) or not sizes:
        raise pickle.UnpicklingError("it has a numpy array that is not one of numbers or texts")
    if math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise pickle.UnpicklingError(f"it has a numpy array of shape {shape} with {len(raw)} bytes")
    return raw, shape, kind.dtype


def _reconstruct(kind: Any, shape: Any, code: Any) -> StoredArray:
    if kind != _ARRAY:
        raise pickle.UnpicklingError("it has a numpy array of a class of its own")
    return np.ndarray.__new__(StoredArray, (0,))


def _from_buffer(raw: Any, kind: Any, shape: Any, order: str, axes: Any = None) -> np.ndarray:
    """An array of pickle protocol 5."""
    raw, shape, dtype = _checked(raw, shape, kind)
    if order == "K":
        return np.frombuffer(raw, dtype).reshape(shape).transpose(axes).copy()
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if order == "F" else "C").copy()


def _scalar(kind: Any, raw: Any) -> Any:
    raw, _, dtype = _checked(raw, (), kind)
    return np.frombuffer(raw, dtype)[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How old protocols write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("it has a text in an unusual encoding")
    return text.encode("latin1")


def _bytes(content: bytes = b"") -> bytes:
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("it has bytes made of something else")
    return content


NUMPY: Mapping[str, Any] = {
    _ARRAY: _ARRAY,
    "numpy.dtype": _Global(StoredType),
    **{f"{module}.multiarray._reconstruct": _Global(_reconstruct) for module in _MODULES},
    **{f"{module}.multiarray.scalar": _Global(_scalar) for module in _MODULES},
    **{f"{module}.numeric._frombuffer": _Global(_from_buffer) for module in _MODULES},
}
"""What the names of numpy in a pickle stand for."""

_CONTAINERS: Mapping[str, Any] = {
    "collections.OrderedDict": _Global(OrderedDict),
    "_codecs.encode": _Global(_encode),
    **{f"{module}.set": _Global(set) for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": _Global(frozenset) for module in ("builtins", "__builtin__")},
    **{f"{module}.bytes": _Global(_bytes) for module in ("builtins", "__builtin__")},
    **{f"{module}.bytearray": _Global(_bytes) for module in ("builtins", "__builtin__")},
}


class ZooUnpickler(pickle.Unpickler):
    """Reads pickles of numpy arrays, numbers, texts and plain containers, and refuses every other.

    What it returns may still hold stand-ins for arrays, see `plain`.

    Raises:
        RefusedName: another function or class is named.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, without importing anything."""
        full = f"{module}.{name}"
        if full in NUMPY:
            return NUMPY[full]
        if full in _CONTAINERS:
            return _CONTAINERS[full]
        raise RefusedName(full)


def plain(value: Any) -> Any:
    """Return what was unpickled with ordinary arrays in place of the stand-ins, in dicts, lists and tuples.

    Raises:
        RecursionError: it is nested too deeply, or holds itself.
    """
    if isinstance(value, StoredArray):
        return value.view(np.ndarray)
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = plain(item)
    elif isinstance(value, list):
        value[:] = [plain(item) for item in value]
    elif type(value) is tuple:
        return tuple(plain(item) for item in value)
    return value


def safe_for_torch() -> list[Any]:
    """Return what ``torch.serialization.safe_globals`` wants so that ``weights_only`` loading reads numpy's values.

    The classes of the stand-ins, whose state such a file may set, get names without a dot, which no file can name.
    """
    stand_ins: list[Any] = [(StoredType, "type"), (StoredArray, "array")]
    return [(made, name) for name, made in NUMPY.items()] + stand_ins
