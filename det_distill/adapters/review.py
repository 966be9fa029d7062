"""The network of ReviewKD: each level of the student together with what is left of the coarser ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ReviewFusion(nn.Module):
    """Fuses a student's levels, from the coarsest to the finest, and gives each the teacher's channels.

    Level n of n = 1 (finest) to L (coarsest) has c_n channels and becomes t_n; between the levels flow r channels:

        x_n = BN(1x1 convolution of level n)                          c_n -> r
        f_L = x_L
        f_n = a x_n + b up(f_{n+1})                                   up: nearest neighbour, to the size of level n
        a, b = sigmoid(1x1 convolution of [x_n, up(f_{n+1})])         2 r -> 2, two maps of one channel
        out_n = BN(3x3 convolution of f_n)                            r -> t_n

    So the teacher's level n also teaches the student's coarser levels. Convolutions have no bias but that of a and b.
    Maps (B, c_n, H_n, W_n) become (B, t_n, H_n, W_n); vectors (B, c_n), such as the embedding after a classifier's
    last map, count as maps of one cell and stay vectors. One level alone is x_1 and out_1, a projection.

    In training the batch normalisation takes the statistics of a batch as it is, padding included; a level of one cell
    needs a batch of at least two.

    Source: dvlab-research/ReviewKD (cede6ea), `Detection/model/kd_trans.py`, ABF; its weights load by name. For
    classification the authors also resize a student's level to the teacher's size (nearest neighbour) before the 3x3
    convolution; not done here, where the pair aligns the sizes.

    Args:
        in_channels: c_n, finest first.
        out_channels: t_n, finest first.
        mid_channels: r; 0: c_L, at most 512, as the authors have it.

    Raises:
        ValueError: no level, unequal numbers of levels, or a negative r.
    """

    takes_all = True

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], *, mid_channels: int = 0
    ) -> None:
        super().__init__()
        if not in_channels or len(in_channels) != len(out_channels):
            raise ValueError(
                f"ReviewFusion needs the channels of as many student levels as teacher levels, not "
                f"{list(in_channels)} and {list(out_channels)}."
            )
        if mid_channels < 0:
            raise ValueError(
                f"ReviewFusion: mid_channels must be above 0, or 0 for the coarsest level's, not {mid_channels}."
            )
        self.levels = len(in_channels)
        mid = mid_channels or min(512, in_channels[-1])
        blocks = (
            _Fusion(c, mid, t, fuses=n < self.levels - 1)
            for n, (c, t) in enumerate(zip(in_channels, out_channels, strict=True))
        )
        self.abfs = nn.ModuleList(reversed(list(blocks)))  # coarsest first, as in the authors' files

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The levels, finest first, each (B, c_n, H_n, W_n) or (B, c_n), to as many with t_n channels.

        Raises:
            ValueError: another number of levels.
        """
        if len(features) != self.levels:
            raise ValueError(f"ReviewFusion fuses {self.levels} levels, but got {len(features)}.")
        results: list[Tensor] = []
        coarser: Tensor | None = None
        for block, feature in zip(self.abfs, reversed(features), strict=True):
            cells = feature if feature.dim() == 4 else feature[:, :, None, None]
            result, coarser = block(cells, coarser)
            results.insert(0, result if feature.dim() == 4 else result[:, :, 0, 0])
        return results

    def channels_after(self, channels: int | None) -> int | None:
        """Not one number: each level has its teacher's."""
        return None


class _Fusion(nn.Module):
    """One level: (x, the fused coarser level) to (the level for the loss, the fused level)."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, *, fuses: bool) -> None:
        super().__init__()
        self.conv1 = _normalised(nn.Conv2d(in_channels, mid_channels, 1, bias=False))
        self.conv2 = _normalised(nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False))
        self.att_conv = nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(self, x: Tensor, coarser: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.conv1(x)
        if self.att_conv is not None and coarser is not None:
            coarser = F.interpolate(coarser, size=x.shape[-2:], mode="nearest")
            own, others = self.att_conv(torch.cat([x, coarser], dim=1)).split(1, dim=1)
            x = own * x + others * coarser
        return self.conv2(x), x


def _normalised(conv: nn.Conv2d) -> nn.Sequential:
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
