"""``int8``: the ONNX student with 8-bit convolutions and matrix products, calibrated on training images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..check import DoesNotFit
from ..formats import ExportRequest, Written
from ..runtimes import open_runtime
from .compare import compare_roughly, limits
from .metadata import KEY, facts, written
from .onnx_format import write_onnx
from .packages import quiet, required

__all__ = ["left_in_float", "quantise", "write_int8"]

TOLERANCE = 0.5
IMAGES = 64
"""Calibration images."""

QUANTISED = ("Conv", "Gemm", "MatMul")
LAST_LAYERS = ("objectness_logits", "anchor_deltas", "cls_score", "bbox_pred", "classifier")
"""Names in the weights of layers whose outputs are probabilities and boxes before their function."""


def write_int8(request: ExportRequest, folder: Path) -> list[Written]:
    """Write ``student_int8.onnx``, the whole student with 8-bit weights and activations, for onnxruntime.

    Static quantisation of onnxruntime (quantise/dequantise pairs): weights of convolutions and matrix products per
    output channel, symmetric; activations per tensor, by the smallest and largest value on `IMAGES` training images.
    The last layers, and with them anchors, boxes and suppression, stay in float32. It is used as ``student.onnx`` is.

    Raises:
        DoesNotFit: as `write_onnx`; or there are no images to calibrate on.
        ExportError: what is found with it has little to do with what the student finds.
    """
    required("onnx", "onnxruntime", "onnxscript")
    images = list(request.calibration(IMAGES))
    if not images:
        raise DoesNotFit("int8 measures activations on training images, and DATASETS.TRAIN gives none")
    path = folder / "student_int8.onnx"
    with tempfile.TemporaryDirectory() as temporary:
        there = folder / "student.onnx"
        if not there.is_file():
            write_onnx(request, Path(temporary))
            there = Path(temporary) / "student.onnx"
        quantise(there, path, images, facts(request, limits(request.model)[0], precision="int8"))
    gap = compare_roughly(request, path, open_runtime(path), TOLERANCE)
    return [Written(path.name, "whole student: ONNX, 8 bits", gap, TOLERANCE, detects=True)]


def quantise(
    source: Path, target: Path, images: Iterable[Tensor], said: dict[str, Any], **options: Any
) -> None:
    """Write a quantised copy of an ONNX graph.

    Args:
        source: the graph, float32.
        target: the copy.
        images: (C, H, W), as for a test.
        said: metadata.
        options: of onnxruntime's ``quantize_static``, instead of the defaults here.
    """
    onnx, q, pre = required("onnx", "onnxruntime.quantization", "onnxruntime.quantization.shape_inference")
    with quiet(), tempfile.TemporaryDirectory() as temporary:
        folded = Path(temporary) / "folded.onnx"
        # norms into convolutions; symbolic shapes are of no use to it where the number of boxes is not known
        pre.quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
        chosen = {
            "quant_format": q.QuantFormat.QDQ,
            "per_channel": True,
            "activation_type": q.QuantType.QUInt8,
            "weight_type": q.QuantType.QInt8,
            "calibrate_method": q.CalibrationMethod.MinMax,
            "op_types_to_quantize": list(QUANTISED),
            "nodes_to_exclude": left_in_float(onnx.load(str(folded)).graph),
            **options,
        }
        q.quantize_static(str(folded), str(target), _reader(q, images), **chosen)
        model = onnx.load(str(target))
        del model.metadata_props[:]
        model.metadata_props.add(key=KEY, value=written(said))
        onnx.checker.check_model(model)
        onnx.save(model, str(target))


def left_in_float(graph: Any) -> list[str]:
    """Return the names of the nodes whose weights are of `LAST_LAYERS`."""
    return [
        node.name
        for node in graph.node
        if node.op_type in QUANTISED and any(last in name for name in node.input for last in LAST_LAYERS)
    ]


def _reader(q: Any, images: Iterable[Tensor]) -> Any:
    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {"image": image.float().numpy()}

    return Reader()
