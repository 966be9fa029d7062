"""What happens to an image in the graph before the backbone: normalised, then padded with 0 at the right and below."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Pixels"]


class Pixels(nn.Module):
    """(C, H, W) pixels, 0 to 255, to (1, C, H', W'), as detectron2's ``preprocess_image``.

    Args:
        mean, std: (C, 1, 1); subtracted, divided by.
        divisor: H' and W' are the next multiples of it; 0 or 1: no padding.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, divisor: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone().float())
        self.register_buffer("std", std.detach().clone().float())
        self.divisor = divisor

    def forward(self, image: Tensor) -> Tensor:
        """Return the padded batch of one."""
        pixels = ((image - self.mean) / self.std)[None]
        if self.divisor > 1:
            height, width = image.shape[1], image.shape[2]
            pixels = F.pad(pixels, (0, self._next(width) - width, 0, self._next(height) - height))
        return pixels

    def _next(self, size: int) -> int:
        """The next multiple; a formula that every exporter takes for one."""
        return (size + self.divisor - 1) // self.divisor * self.divisor
