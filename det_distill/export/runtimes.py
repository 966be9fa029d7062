"""Open an exported graph and call it with an image, whatever it was written as."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401 - brings the operators that TorchScript and torch.export files name
from torch import Tensor

from .graphs.metadata import KEY, NAME, read_facts
from .graphs.packages import quiet, required
from .pt2_check import check_pt2

__all__ = ["Runtime", "open_runtime"]


class Runtime(ABC):
    """A graph that is called with one image.

    Attributes:
        metadata: what the file says of itself, see `det_distill.export.graphs.metadata.facts`.
    """

    metadata: dict[str, Any]

    @abstractmethod
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name.

        Args:
            image: (C, H, W), float32, 0 to 255, channels as ``metadata["input_format"]`` says; of an
                ``onnx-backbone`` (N, C, H, W).

        Returns:
            Of a detector ``boxes`` (N, 4) x0 y0 x1 y1 in pixels of `image`, ``scores`` (N,), ``classes`` (N,) int64; of
            a classifier ``logits`` (K,); of a backbone its maps.
        """


def open_runtime(path: str | os.PathLike[str]) -> Runtime:
    """Return the graph of a file, on the CPU.

    A ``.ts`` or ``.pt2`` file is a program: open only those that you trust. Of a ``.pt2`` what would run before the
    network is called is refused, see `check_pt2`.

    Args:
        path: ends in ``.onnx`` (run by onnxruntime), ``.ts`` or ``.pt2``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, one that cannot be read or is refused, or one that says not what it is.
        DoesNotFit: onnxruntime is not installed.
    """
    file = Path(path)
    kinds: dict[str, Callable[[Path], Runtime]] = {".onnx": _Onnx, ".ts": _TorchScript, ".pt2": _TorchExport}
    if file.suffix not in kinds:
        raise ValueError(f"{file} is no exported graph: the name of one ends in {', '.join(kinds)}")
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    return kinds[file.suffix](file)


def _named(found: Any, metadata: dict[str, Any]) -> dict[str, Tensor]:
    if metadata["kind"] == "classifier":
        return {"logits": found}
    return dict(zip(("boxes", "scores", "classes"), found, strict=True))


class _Onnx(Runtime):
    def __init__(self, file: Path) -> None:
        (ort,) = required("onnxruntime")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each cause
            raise ValueError(f"{file} cannot be read as ONNX: {str(error).splitlines()[0]}") from error
        self.metadata = read_facts(self._session.get_modelmeta().custom_metadata_map.get(KEY), str(file))
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        values = self._session.run(None, {"image": image.detach().cpu().float().numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(self._names, values, strict=True)}


class _TorchScript(Runtime):
    def __init__(self, file: Path) -> None:
        extra = {KEY: ""}
        try:
            self._module = torch.jit.load(str(file), map_location="cpu", _extra_files=extra)
        except RuntimeError as error:
            raise ValueError(f"{file} cannot be read as TorchScript: {str(error).splitlines()[0]}") from error
        self.metadata = read_facts(extra[KEY], str(file))

    @torch.no_grad()
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        return _named(self._module(image.float()), self.metadata)


class _TorchExport(Runtime):
    def __init__(self, file: Path) -> None:
        extra = {NAME: ""}
        check_pt2(file)
        try:
            with quiet():
                self._module = torch.export.load(str(file), extra_files=extra).module()
        except Exception as error:  # its reader has no class of its own
            raise ValueError(
                f"{file} cannot be read by torch.export: {str(error).splitlines()[:1]}"
            ) from error
        self.metadata = read_facts(extra[NAME], str(file))

    @torch.no_grad()
    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        least = self.metadata.get("smallest_side", 0)
        if min(image.shape[1:]) < least:
            raise ValueError(
                f"an image of {image.shape[1]} x {image.shape[2]} pixels: this torch.export program takes sides of "
                f"{least} or more; scale the image up, or use the ONNX or TorchScript file"
            )
        return _named(self._module(image.float()), self.metadata)
