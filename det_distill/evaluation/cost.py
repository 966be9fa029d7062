"""What a detector costs when it is used: parameters, multiply-adds and images per second."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.utils.analysis import FlopCountAnalysis
from torch import Tensor, nn

from ..modes import restored_modes
from ..timing import elapsed
from ..wrapping import student_of

__all__ = ["ModelCost", "giga_multiply_adds", "model_cost"]

_WARM_UP = 2
_LEAST = 3


@dataclass(frozen=True)
class ModelCost:
    """The cost of a detector on one image.

    Attributes:
        parameters: number of scalars in its parameters, frozen ones too; buffers, such as the running
            statistics of batch normalisation and all of a ``FrozenBatchNorm2d``, do not count.
        giga_multiply_adds: 1e9 multiply-adds of one forward pass. Detection papers print this number as
            "GFLOPs"; with multiplications and additions counted apart it is twice as much.
        images_per_second: 1 / median seconds of a forward pass of one image.
        height, width: of the image in pixels, before the model pads it.
        threads: CPU threads that torch used.
        device: where it was measured.
    """

    parameters: int
    giga_multiply_adds: float
    images_per_second: float
    height: int
    width: int
    threads: int
    device: str

    def row(self) -> dict[str, float]:
        """Return the columns of a results table, with the units in the names."""
        return {
            "parameters (M)": self.parameters / 1e6,
            "GFLOPs (1 = 1e9 multiply-adds)": self.giga_multiply_adds,
            "images/s": self.images_per_second,
        }


def model_cost(
    model: nn.Module, height: int, width: int, *, image: Tensor | None = None, seconds: float = 3.0
) -> ModelCost:
    """Measure a detectron2 detector in eval mode: backbone, proposals and heads, on one image.

    Multiply-adds are those that fvcore counts under detectron2's ``FlopCountAnalysis``: convolutions, linear
    layers, matrix products, normalisation and nearest up-sampling; one multiplication with its addition is 1.
    Not counted, without a warning, and small beside them: activations and other element-wise work, pooling,
    RoIAlign, resizing by interpolation, decoding of boxes and NMS.

    The number of proposals depends on the image and on the weights, and with it the work of RoI heads: give a
    real image and a trained model for numbers to publish. `images_per_second` includes preprocessing on the
    device and postprocessing, not the reading of files.

    Args:
        model: a detector that takes ``[{"image": (C, H, W)}]``; its training mode is restored. A `Distiller`
            stands for its student.
        height: of the image that the model gets, in pixels.
        width: likewise.
        image: (C, H, W), 0 to 255, channels in the model's order; resized to `height` x `width`. Default:
            noise.
        seconds: repeat the timed forward pass for about this long, at least 3 times after 2 for warm-up.

    Raises:
        ValueError: `height`, `width`, `seconds` or the image's shape make no sense.
    """
    if height < 1 or width < 1 or seconds < 0:
        raise ValueError(f"model_cost needs positive sizes and time, not {height} x {width} and {seconds} s")
    model = student_of(model)
    device = next(model.parameters()).device
    batch = [{"image": _resized(image, height, width).to(device), "height": height, "width": width}]
    with restored_modes(model), torch.no_grad():
        model.eval()
        multiply_adds = _multiply_adds(model, batch)
        duration = _median_seconds(model, batch, device, seconds)
    return ModelCost(
        parameters=sum(p.numel() for p in model.parameters()),
        giga_multiply_adds=multiply_adds / 1e9,
        images_per_second=1 / duration,
        height=height,
        width=width,
        threads=torch.get_num_threads(),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )


def giga_multiply_adds(model: nn.Module, image: Tensor) -> float:
    """Return 1e9 multiply-adds of one forward pass, counted as `model_cost` does, without taking the time.

    Args:
        model: see `model_cost`.
        image: (C, H, W), 0 to 255, channels in the model's order.
    """
    model = student_of(model)
    batch = [{"image": image.to(next(model.parameters()).device)}]
    with restored_modes(model), torch.no_grad():
        model.eval()
        return _multiply_adds(model, batch) / 1e9


def _resized(image: Tensor | None, height: int, width: int) -> Tensor:
    if image is None:
        noise = torch.Generator().manual_seed(0)
        return torch.randint(0, 256, (3, height, width), generator=noise, dtype=torch.uint8)
    if image.dim() != 3:
        raise ValueError(f"the image must have the shape (C, H, W), not {tuple(image.shape)}")
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image[None].float(), (height, width), mode="bilinear", align_corners=False)[0]


def _multiply_adds(model: nn.Module, batch: list[dict[str, Any]]) -> float:
    count = FlopCountAnalysis(model, [{"image": batch[0]["image"]}])
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    return float(count.total())


def _median_seconds(model: nn.Module, batch: Any, device: torch.device, seconds: float) -> float:
    for _ in range(_WARM_UP):
        model(batch)
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < _LEAST or time.perf_counter() < stop:
        times.append(elapsed(lambda: model(batch), device))
    return statistics.median(times)
