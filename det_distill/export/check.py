"""Exported files are loaded into newly built models, whose outputs have to be those of the exported model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Instances
from safetensors.torch import load_file
from torch import Tensor, nn

from ..checkpoint import StrictCheckpointer

__all__ = ["ANY_SIZE", "ExportError", "bottom_up", "check_files"]

ANY_SIZE = (192, 256)
"""Height and width of images for networks that do not say which they want."""


class ExportError(RuntimeError):
    """A written file did not give back the model that it was written from."""


def bottom_up(model: nn.Module) -> nn.Module:
    """Return the backbone alone: below an FPN, its bottom-up network."""
    backbone: Any = model.backbone
    return getattr(backbone, "bottom_up", backbone)


def _whole(model: nn.Module) -> nn.Module:
    return model


_Part = Callable[[nn.Module], nn.Module]
_BY_ENDS_OF_NAMES = "backbone.pth"
_READERS: dict[str, tuple[Callable[[Path], Mapping[str, Tensor]], _Part]] = {
    "student.pth": (lambda path: torch.load(path, weights_only=True)["model"], _whole),
    "student.safetensors": (load_file, _whole),
    "backbone.safetensors": (load_file, bottom_up),
}


@torch.no_grad()
def check_files(
    folder: Path,
    model: nn.Module,
    build: Callable[[], nn.Module],
    image: Tensor | None = None,
    size: tuple[int, int] = ANY_SIZE,
) -> dict[str, float]:
    """Load each file of weights into a model of its own, strictly, and compare outputs.

    Compared are the maps of the backbone and the detections, or logits; for ``backbone.safetensors`` and
    ``backbone.pth`` the maps of `bottom_up`.

    Args:
        folder: holds the files.
        model: what they were written from, in eval mode on the CPU.
        build: returns a new model.
        image: (C, H, W), 0 to 255; default: noise.
        size: (H, W) of the noise.

    Returns:
        File name -> largest absolute difference, which is 0.

    Raises:
        ExportError: a file does not load, or outputs differ or are not finite.
    """
    inputs = _inputs(image, (len(model.pixel_mean), *size))  # type: ignore[arg-type]
    differences = {}
    parts = {**{name: part for name, (_, part) in _READERS.items()}, _BY_ENDS_OF_NAMES: bottom_up}
    for name, part in parts.items():
        fresh = build()
        try:
            _load(name, part(fresh), folder / name)
        except (RuntimeError, ValueError) as error:
            raise ExportError(f"{name} does not load into a model built from config.yaml: {error}") from error
        expected, found = (_outputs(m, part(m), inputs) for m in (model, fresh))
        differences[name] = largest_difference(expected, found)
        if differences[name] != 0:
            raise ExportError(
                f"{name}: the reloaded model's outputs differ by {differences[name]:g} from the exported "
                "one's (nan: they are not finite), so nothing was written"
            )
    return differences


def _load(name: str, part: nn.Module, path: Path) -> None:
    """Load a file into a part, strictly; ``backbone.pth`` as detectron2 does, below another level of names."""
    if name == _BY_ENDS_OF_NAMES:
        StrictCheckpointer(nn.ModuleDict({"backbone": part})).load(str(path))
    else:
        part.load_state_dict(_READERS[name][0](path), strict=True)


def _inputs(image: Tensor | None, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    if image is None:
        noise = torch.Generator().manual_seed(0)
        image = torch.randint(0, 256, shape, generator=noise, dtype=torch.uint8)
    return [{"image": image, "height": image.shape[-2], "width": image.shape[-1]}]


def _outputs(model: Any, part: Any, inputs: list[dict[str, Any]]) -> list[Tensor]:
    classifier = hasattr(model, "normalized_images")
    images = model.normalized_images(inputs) if classifier else model.preprocess_image(inputs).tensor
    found = [model.backbone(images), model(inputs)] if part is model else part(images)
    return list(tensors_in(found))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in nested containers, boxes and instances, in a fixed order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Instances):
        yield from tensors_in(value.get_fields())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from tensors_in(value[key])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(getattr(value, "tensor", None), Tensor):
        yield value.tensor


def largest_difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest absolute difference of any element.

    NaN if an element is not a number; infinite for other shapes or types, or nothing to compare.
    """
    if [(t.shape, t.dtype) for t in expected] != [(t.shape, t.dtype) for t in found]:
        return float("inf")
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if a.numel()]
    if not pairs:
        return float("inf")
    return float(torch.stack([(a.double() - b.double()).abs().max() for a, b in pairs]).max())
