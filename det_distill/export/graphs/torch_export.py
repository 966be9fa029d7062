"""``torch-export``: the whole student as a program of ``torch.export``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ..check import DoesNotFit
from ..formats import ExportRequest, Written
from ..runtimes import open_runtime
from .build import Graph, graph_of
from .compare import compare_exactly, limits
from .metadata import NAME, facts, written
from .packages import quiet
from .torchscript import example

__all__ = ["exported", "smallest_side", "write_torch_export"]

TOLERANCE = 1e-3


def exported(graph: Graph, *, batched: bool = False) -> Any:
    """Return the ``ExportedProgram`` of a graph, of any height and width unless the network has but one.

    Conditions on sizes that torch's symbolic shapes cannot prove become checks of the program (deferred assertions),
    instead of the end of the export.

    Args:
        graph: maps (C, H, W), or (N, C, H, W) if `batched`.
        batched: N is free too.

    Raises:
        DoesNotFit: torch.export cannot follow the network.
    """
    image = example(graph)
    image = image[None].repeat(2, 1, 1, 1) if batched else image
    free = range(image.dim()) if batched else range(1, image.dim())
    sizes = {i: torch.export.Dim.DYNAMIC for i in free if i != image.dim() - 3 and not (graph.side and i > 0)}
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                graph.module,
                (image,),
                dynamic_shapes=(sizes or None,),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # its classes are private
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DoesNotFit(
            f"torch.export cannot follow this network at every size of image ({line}); export to torchscript"
        ) from error
    _drop_parity_checks(program)
    return program


def _drop_parity_checks(program: Any) -> None:
    """Take away checks that a size leaves the same remainder as the example's.

    They come from torch's shape formula of max pooling, which asks for the remainder of a division to round it down,
    and of sizes that are not negative needs not know it. With them a program takes odd sizes or even ones only.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default and "Mod(" in str(node.args[1]):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()


def smallest_side(program: Any) -> int:
    """Return the side of the smallest image that a program's own checks accept; 0: any."""
    least = [
        int(bounds.lower) for name, bounds in program.range_constraints.items() if str(name).startswith("s")
    ]
    return max((x for x in least if math.isfinite(x) and x > 2), default=0)


def write_torch_export(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``student.pt2``, the whole student with normalisation and suppression, for ``torch.export.load``.

    It needs torch and torchvision only::

        import json, torch, torchvision
        extra = {"det_distill.json": ""}
        student = torch.export.load("student.pt2", extra_files=extra).module()
        facts = json.loads(extra["det_distill.json"])  # classes, size and order of channels of the images
        image = torchvision.io.decode_image("photo.jpg").float()          # (3, H, W), RGB, 0 to 255
        if facts["input_format"] == "BGR":
            image = image.flip(0)
        image = torchvision.transforms.functional.resize(image, facts["min_size_test"])
        boxes, scores, classes = student(image)        # of a classifier: logits = student(image)

    Sides below ``facts["smallest_side"]`` (65 pixels for a pyramid of stride 32) are refused: torch.export proves its
    programs for maps of more than one cell.

    Raises:
        DoesNotFit: the network has no graph, or torch.export cannot follow it.
        ExportError: the file gives other detections.
    """
    graph = graph_of(request.model)
    program = exported(graph)
    path, least = folder / "student.pt2", 0 if graph.side else smallest_side(program)
    said = facts(request, limits(request.model)[0], smallest_side=least)
    with quiet():
        torch.export.save(program, str(path), extra_files={NAME: written(said)})
    gap = compare_exactly(request, path, open_runtime(path), TOLERANCE, smallest=least)
    return [
        Written(path.name, "whole student: torch.export, for torch.export.load", gap, TOLERANCE, detects=True)
    ]
