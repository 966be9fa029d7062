"""``onnx``: the student for onnxruntime and other runtimes.

It is made by torch's exporter on top of ``torch.export`` (``dynamo=True``). The older one, which traces TorchScript,
gives graphs that are as right, but torch has deprecated it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..check import DoesNotFit
from ..formats import ExportRequest, Written
from ..runtimes import open_runtime
from .build import graph_of
from .compare import compare_exactly, limits
from .metadata import KEY, facts, written
from .packages import quiet, required
from .torch_export import exported

__all__ = ["save_onnx", "write_onnx"]

TOLERANCE = 1e-3
OPSET = 18
"""onnxruntime 1.14 and later read it."""


def write_onnx(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``student.onnx``, the whole student with normalisation and suppression, for any size of image.

    It needs onnxruntime only::

        import json, numpy as np, onnxruntime
        from PIL import Image
        student = onnxruntime.InferenceSession("student.onnx")
        facts = json.loads(student.get_modelmeta().custom_metadata_map["det_distill"])   # classes, size, channels
        photo = Image.open("photo.jpg").convert("RGB")
        scale = facts["min_size_test"] / min(photo.size)
        photo = photo.resize([round(side * scale) for side in photo.size], Image.BILINEAR)
        image = np.asarray(photo, np.float32).transpose(2, 0, 1)                          # (3, H, W), 0 to 255
        image = np.ascontiguousarray(image[::-1] if facts["input_format"] == "BGR" else image)
        boxes, scores, classes = student.run(None, {"image": image})    # of a classifier: [logits]

    Raises:
        DoesNotFit: the network has no graph, or a package is missing.
        ExportError: the file gives other detections.
    """
    required("onnx", "onnxruntime", "onnxscript")
    graph = graph_of(request.model)
    path = folder / "student.onnx"
    program = exported(graph)
    save_onnx(program, path, graph.outputs, facts(request, limits(request.model)[0]))
    gap = compare_exactly(request, path, open_runtime(path), TOLERANCE)
    return [Written(path.name, "whole student: ONNX, for onnxruntime", gap, TOLERANCE, detects=True)]


def save_onnx(
    program: Any, path: Path, outputs: Sequence[str], said: dict[str, Any], batched: bool = False
) -> None:
    """Write a program of ``torch.export`` as ONNX, checked by ONNX's own checker.

    Sizes are called ``batch``, ``height`` and ``width`` at the input ``image`` and ``detections`` at the outputs of a
    detector. Notes of torch about its nodes, with paths of the machine, are left out.

    Raises:
        DoesNotFit: torch has no ONNX for a part of it.
    """
    onnx, _ = required("onnx", "onnxscript")
    try:
        with quiet():
            made = torch.onnx.export(
                program, dynamo=True, input_names=["image"], output_names=list(outputs), opset_version=OPSET
            )
            model = made.model_proto  # type: ignore[union-attr]
    except Exception as error:  # its classes are private
        raise DoesNotFit(
            f"torch.onnx cannot write this network ({str(error).splitlines()[:1]}); export to torchscript"
        ) from error
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        model.graph,
    ):
        del part.metadata_props[:]
        part.doc_string = ""
    _name_sizes(model.graph, batched)
    del model.metadata_props[:]
    model.metadata_props.add(key=KEY, value=written(said))
    onnx.checker.check_model(model, full_check=False)
    onnx.save(model, str(path))


def _name_sizes(graph: Any, batched: bool) -> None:
    names = (["batch"] if batched else []) + ["channels", "height", "width"]
    new = {
        d.dim_param: n
        for d, n in zip(graph.input[0].type.tensor_type.shape.dim, names, strict=True)
        if d.dim_param
    }
    new |= {
        d.dim_param: "detections"
        for o in graph.output
        for d in o.type.tensor_type.shape.dim[:1]
        if not batched
    }
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in new:
                size.dim_param = new[size.dim_param]
