"""``.pt2`` files looked through before torch opens them: torch's reader unpickles and evaluates what they say.

The archive is read with torch's own reader of archives, so that nothing is looked at here and something else there.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..files import FileError

__all__ = ["check_pt2"]

_RECORDS = re.compile(
    r"models/\w+\.json|data/sample_inputs/\w+\.pt|data/weights/(weight_\d+|\w+_weights_config\.json)"
    r"|data/constants/(tensor_\d+|\w+_constants_config\.json)|extra/[^/\\]+"
    r"|archive_format|archive_version|version|byteorder|\.data/\w+|\.format_version|\.storage_alignment"
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_CALLED = re.compile(
    r"torch\.ops\.\w+\.\w+\.\w+|torch\.sym_\w+|math\.[a-z]\w*"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|getitem)"
)
_ARITHMETIC = (
    *(ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant, ast.UnaryOp, ast.unaryop),
    *(ast.BinOp, ast.operator, ast.Compare, ast.cmpop, ast.BoolOp, ast.boolop),
)
_SYMBOL = re.compile(r"[a-z]+\d+|[-+.\de]+")
_NAME = re.compile(r"[\w.]*")
_SAID_ONLY = ("metadata", "as_string", "torch_version")  # what a node came from, texts that are quoted
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict"}


def check_pt2(file: Path) -> None:
    """Refuse a file of ``torch.export`` that would run more than the operations of a network when it is opened.

    Our own files hold plain tensors. Refused are pickles (but for sample inputs of tensors), compiled libraries,
    calls of anything but operators, and sizes that are more than arithmetic. What the operators do is not looked at.

    Raises:
        FileError: such a file, or one that cannot be read.
    """
    try:
        reader = torch._C.PyTorchFileReader(str(file))
        records = {name: reader.get_record(name) for name in _small(reader.get_all_records())}
        names = zipfile.ZipFile(file).namelist()
        problem = _outside(names) or next(filter(None, _problems(records)), "")
    except (
        RuntimeError,
        ValueError,
        KeyError,
        RecursionError,
        TypeError,
        AttributeError,
        zipfile.BadZipFile,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileError(f"{file} cannot be read by torch.export: {reason}") from error
    if problem:
        raise FileError(
            f"{file} is refused: {problem}, so opening it could run any program. Nothing of it was run. Ask for the "
            "student's .onnx or .safetensors, or see docs/safety.md"
        )


def _small(names: list[str]) -> Iterator[str]:
    """All records but the tensors, which are bytes."""
    return (name for name in names if not re.fullmatch(r"data/(weights/weight|constants/tensor)_\d+", name))


def _outside(names: list[str]) -> str:
    """Records beside the archive's own folder are those of torch 2.7 and before, which were pickles."""
    found = next((name for name in names if "/" not in name), "")
    return f"it is in the format of torch 2.7 ({found!r}), which holds pickles" if found else ""


def _problems(records: Mapping[str, bytes]) -> Iterator[str]:
    """What speaks against each record; "" for one that is as it should be."""
    for name, content in records.items():
        if not _RECORDS.fullmatch(name):
            yield f"it holds {name!r}, which is no part of an exported network of tensors"
        elif name.endswith("_config.json"):
            yield _payloads(name, json.loads(content)["config"])
        elif name.startswith("data/sample_inputs/"):
            yield _inputs(name, content)
        elif name.startswith("models/"):
            yield from _graph(json.loads(content))


def _payloads(name: str, config: Mapping[str, Mapping[str, Any]]) -> str:
    for tensor, said in config.items():
        if said.get("use_pickle"):
            return f"{name} has {tensor!r} as a pickle"
        if not _PAYLOAD.fullmatch(said["path_name"]):
            return f"{name} has {tensor!r} in {said['path_name']!r}, which is no tensor"
    return ""


def _inputs(name: str, content: bytes) -> str:
    try:
        if content:
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # a broken pickle can raise nearly anything, and torch would then read it unsafely
        return f"{name} is a pickle of more than tensors"
    return ""


def _graph(content: Any, key: str = "") -> Iterator[str]:
    """What speaks against a graph: its calls, its symbolic sizes, and names, from which torch writes a program."""
    if isinstance(content, list):
        for inner in content:
            yield from _graph(inner, key)
    elif isinstance(content, dict):
        if isinstance(content.get("inputs"), list) and not _is_operator(content.get("target", "")):
            yield f"its graph calls {content['target']!r}, which is no operator"
        for name, inner in content.items():
            if not _NAME.fullmatch(name):
                yield f"its graph has the name {name[:80]!r}"
            if name not in _SAID_ONLY:
                yield from _graph(inner, name)
    elif isinstance(content, str) and not _is_plain(key, content):
        yield f"its graph has {content[:80]!r} for {key or 'a text'}"


def _is_plain(key: str, text: str) -> bool:
    if key == "expr_str":
        return _is_arithmetic(text)
    if key in ("in_spec", "out_spec"):
        return set(re.findall(r'"type": *"([^"]*)"', text)) <= _CONTAINERS and "\\" not in text
    return bool(_NAME.fullmatch(text))


def _is_operator(target: str) -> bool:
    if not target:
        return True
    if not _CALLED.fullmatch(target):
        return False
    if not target.startswith("torch.ops."):
        return True
    found: Any = torch
    for part in target.split(".")[1:]:
        found = getattr(found, part, None)
    return found is None or isinstance(found, torch._ops.OpOverload)


def _is_arithmetic(expression: str) -> bool:
    """Whether a text is sympy's of a size: numbers, symbols and functions with a capital, nothing else.

    sympy evaluates the text as Python, and texts inside it again.
    """
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError, MemoryError):
        return False
    for node in nodes:
        if not isinstance(node, _ARITHMETIC):
            return False
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id[0].isupper()):
            return False
        if isinstance(node, ast.Name) and "__" in node.id:
            return False
        if isinstance(node, ast.Constant) and not _is_number_or_symbol(node.value):
            return False
    return True


def _is_number_or_symbol(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (
        isinstance(value, str) and bool(_SYMBOL.fullmatch(value))
    )
