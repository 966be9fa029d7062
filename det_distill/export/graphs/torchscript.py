"""``torchscript``: the whole student as a traced program, for ``torch.jit.load``, in Python and C++."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..formats import ExportRequest, Written
from ..runtimes import open_runtime
from .build import Graph, graph_of
from .compare import compare_exactly, limits
from .metadata import KEY, facts, written
from .packages import quiet

__all__ = ["example", "write_torchscript"]

TOLERANCE = 1e-3


def example(graph: Graph) -> Tensor:
    """Return the noise that a graph is made with: wider than high and no multiple of 32, if it takes any size."""
    size = (graph.side, graph.side) if graph.side else (203, 301)
    return torch.randint(0, 256, (graph.channels, *size), generator=torch.Generator().manual_seed(0)).float()


def write_torchscript(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``student.ts``, the whole student with normalisation and suppression, for ``torch.jit.load``.

    It needs torch and torchvision only::

        import json, torch, torchvision
        extra = {"det_distill": ""}
        student = torch.jit.load("student.ts", _extra_files=extra)
        facts = json.loads(extra["det_distill"])       # classes, size and order of channels of the images
        image = torchvision.io.decode_image("photo.jpg").float()          # (3, H, W), RGB, 0 to 255
        if facts["input_format"] == "BGR":
            image = image.flip(0)
        image = torchvision.transforms.functional.resize(image, facts["min_size_test"])
        boxes, scores, classes = student(image)        # of a classifier: logits = student(image)

    Raises:
        DoesNotFit: the network has no graph.
        ExportError: the file gives other detections.
    """
    graph = graph_of(request.model)
    path = folder / "student.ts"
    with quiet(), torch.no_grad():
        program = torch.jit.trace(
            graph.module,
            example(graph),
            check_trace=False,
        )
        torch.jit.save(
            program, str(path), _extra_files={KEY: written(facts(request, limits(request.model)[0]))}
        )
    gap = compare_exactly(request, path, open_runtime(path), TOLERANCE)
    return [
        Written(path.name, "whole student: TorchScript, for torch.jit.load", gap, TOLERANCE, detects=True)
    ]
