"""One learned linear map, of every cell of a map, its neighbourhood, or of every row."""

from __future__ import annotations

from torch import nn


class Conv1x1(nn.Conv2d):
    """One 1x1 convolution with bias: a map (B, in_channels, H, W) to (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1)


class Conv3x3(nn.Conv2d):
    """One 3x3 convolution with bias, padded with zeros: (B, in_channels, H, W) to (B, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)


class Linear(nn.Linear):
    """One linear layer with bias: rows (..., in_features) to (..., out_features).

    The embedding of feature mimicking for a student whose feature is narrower than the teacher's. The authors
    keep it in the deployed classifier; here it only serves the loss, and the student's own heads stay as they
    are.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
