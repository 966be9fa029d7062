"""The network of FGD's global part: what each cell of a map gets from all the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GlobalContext(nn.Module):
    """GcBlock: adds to every cell one vector that is made of a weighted mean over all cells.

        m_ij    = softmax over cells of (w . x_ij + b)
        context = sum over cells of m_ij x_ij                                       (B, C)
        R(x)    = x + W_2 ReLU(LayerNorm(W_1 context + b_1)) + b_2                   C -> C/2 -> C

    A map (B, C, H, W) keeps its shape. At the start W_2 and b_2 are zero, R(x) = x, and w is drawn from a normal
    distribution of variance 2 / C, b is zero, as in the authors' code. The other layers have PyTorch's initial values.

    Source: yzd-v/FGD (c03a6cf), `mmdet/distillation/losses/fgd.py`: ``conv_mask_s`` and ``channel_add_conv_s`` (or
    ``_t``) are `conv_mask` and `channel_add_conv` here.

    Args:
        channels: C, at least 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        if half < 1:
            raise ValueError(f"GlobalContext halves the channels and needs at least 2, not {channels}.")
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, half, 1), nn.LayerNorm([half, 1, 1]), nn.ReLU(), nn.Conv2d(half, channels, 1)
        )
        nn.init.kaiming_normal_(self.conv_mask.weight, mode="fan_in", nonlinearity="relu")
        for values in (self.conv_mask.bias, *self.channel_add_conv[3].parameters()):
            if values is not None:
                nn.init.zeros_(values)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to the same; the context is that of the cells in `valid` (B, 1, H, W), all if None."""
        logits = self.conv_mask(x)
        if valid is not None:
            logits = logits.masked_fill(~valid, torch.finfo(logits.dtype).min)
        share = F.softmax(logits.flatten(2), dim=2)
        context = (x.flatten(2) * share).sum(2)
        return x + self.channel_add_conv(context[:, :, None, None])
