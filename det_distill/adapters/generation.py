"""The network of masked generative distillation: a map with holes to a whole one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .linear import Conv1x1


class Generation(nn.Module):
    """Aligns the student's channels, blanks out a random part, and generates the teacher's map from the rest.

        F' = generation(mask * align(F))        generation: 3x3 convolution, ReLU, 3x3 convolution, C -> C -> C

    `align` is a 1x1 convolution where the channels differ, and nothing else. In training each cell of each image
    (``"cells"``), the same in all channels, or each channel of each image (``"channels"``) is zero with probability
    `ratio`, drawn anew at every call from torch's global generator; in eval mode nothing is masked. A map
    (B, in_channels, H, W) becomes (B, out_channels, H, W).

    Cells in the padding of a batch of unequal images are masked and convolved like any other; the cells of an image
    that are within two cells of its end see them. The loss leaves their own output out.

    Source: yzd-v/MGD (2c9da0b), `det/mmdet/distillation/losses/mgd.py` (cells) and `cls/mmcls/distillation/losses/
    mgd.py` (channels); its weights load by name. `ratio` there: 0.45 for two-stage detectors, 0.65 for one-stage
    ones, 0.75 for segmentation, and 0.15 with channels for ImageNet.

    Args:
        in_channels: the student's.
        out_channels: the teacher's.
        ratio: share of cells or channels that is blanked out, at least 0 and less than 1.
        mask: "cells" or "channels".

    Raises:
        ValueError: another `ratio` or `mask`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        ratio: float = 0.45,
        mask: Literal["cells", "channels"] = "cells",
    ) -> None:
        super().__init__()
        if not 0 <= ratio < 1:
            raise ValueError(f"Generation masks a share of at least 0 and less than 1, not {ratio}.")
        if mask not in ("cells", "channels"):
            raise ValueError(f'Generation masks "cells" or "channels", not {mask!r}.')
        self.in_channels, self.out_channels, self.ratio, self.mask = in_channels, out_channels, ratio, mask
        self.align = Conv1x1(in_channels, out_channels) if in_channels != out_channels else nn.Identity()
        self.generation = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H, W)."""
        x = self.align(x)
        if self.training:
            x = x.masked_fill(self._masked(x), 0)
        return self.generation(x)

    def _masked(self, x: Tensor) -> Tensor:
        """What is blanked out: bool, (B, 1, H, W) or (B, C, 1, 1)."""
        batch, channels, height, width = x.shape
        shape = (batch, 1, height, width) if self.mask == "cells" else (batch, channels, 1, 1)
        return torch.rand(shape, device=x.device) > 1 - self.ratio

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(adapter)`."""
        return f"ratio={self.ratio}, mask={self.mask!r}"
