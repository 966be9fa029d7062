"""``onnx-backbone``: the backbone's maps by name, for onnxruntime and other runtimes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..check import ExportError
from ..formats import ExportRequest, Written
from ..runtimes import open_runtime
from .build import Graph, ready
from .compare import sizes_of_a_graph
from .metadata import facts
from .onnx_format import save_onnx
from .packages import required
from .torch_export import exported

__all__ = ["write_onnx_backbone"]

TOLERANCE = 1e-3
"""Of a map's largest value."""


class _Maps(nn.Module):
    """A backbone behind the normalisation, its maps in a row."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.backbone, self.names = model.backbone, list(names)
        self.register_buffer("mean", model.pixel_mean.clone())
        self.register_buffer("std", model.pixel_std.clone())

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Map (N, C, H, W) pixels, 0 to 255, to the maps."""
        maps = self.backbone((image - self.mean) / self.std)
        return tuple(maps[name] for name in self.names)


def write_onnx_backbone(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``backbone.onnx``: ``image`` (N, C, H, W), 0 to 255, to the backbone's maps by name, such as ``p2``.

    Normalisation is inside. H and W have to be multiples of the metadata's ``size_divisibility``, where that is not 0.

    Raises:
        DoesNotFit: torch.export cannot follow the backbone, or a package is missing.
        ExportError: the file gives other maps.
    """
    required("onnx", "onnxruntime", "onnxscript")
    model: Any = ready(request.model)
    names = list(model.backbone.output_shape())
    module = _Maps(model, names).eval()
    path = folder / "backbone.onnx"
    divisor = int(getattr(model.backbone, "size_divisibility", 0) or 0)
    side = int(getattr(model.backbone, "image_size", 0) or 0)
    graph = Graph(module, tuple(names), len(model.pixel_mean), side)
    program = exported(_divisible(graph, divisor), batched=True)
    said = facts(request, 0.0) | {"kind": "backbone", "size_divisibility": divisor}
    save_onnx(program, path, names, said, batched=True)
    gap = _compare_maps(request, path, module, names, open_runtime(path), max(divisor, 1))
    return [Written(path.name, f"backbone: ONNX, maps {', '.join(names)}", gap, TOLERANCE)]


def _divisible(graph: Graph, divisor: int) -> Graph:
    """The graph with a size of image cut to multiples, so that exporters know it for one."""
    if divisor <= 1 or graph.side:
        return graph
    return Graph(_Cut(graph.module, divisor).eval(), graph.outputs, graph.channels)


class _Cut(nn.Module):
    def __init__(self, module: nn.Module, divisor: int) -> None:
        super().__init__()
        self.module, self.divisor = module, divisor

    def forward(self, image: Tensor) -> Any:
        height, width = (
            image.shape[2] // self.divisor * self.divisor,
            image.shape[3] // self.divisor * self.divisor,
        )
        return self.module(image[:, :, :height, :width])


def _compare_maps(
    request: ExportRequest,
    path: Path,
    module: nn.Module,
    names: Sequence[str],
    run: Callable[[Tensor], dict[str, Tensor]],
    divisor: int,
) -> float:
    """The largest difference of any map, as a part of its largest value."""
    worst = 0.0
    for image in sizes_of_a_graph(request):
        height, width = (max(side // divisor, 1) * divisor for side in image.shape[1:])
        batch = torch.nn.functional.interpolate(image[None].float(), (height, width)).repeat(2, 1, 1, 1)
        with torch.no_grad():
            expected = module(batch)
        found = run(batch)
        for name, there in zip(names, expected, strict=True):
            gap = float((there - found[name]).abs().max() / max(1e-6, float(there.abs().max())))
            if not gap <= TOLERANCE:
                raise ExportError(
                    f"{path.name}: {name} differs by {gap:g} of its largest value, more than {TOLERANCE:g}"
                )
            worst = max(worst, gap)
    return worst
