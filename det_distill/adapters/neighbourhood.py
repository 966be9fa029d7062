"""Every cell of a map together with its neighbours: what a 3x3 convolution sees there."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

CELLS = 9
"""Cells of a neighbourhood."""


class Neighbourhood(nn.Module):
    """The 3x3 cells around each cell as one vector: a map (B, C, H, W) to (B, 9 C, H, W). No parameters.

    Channel 9 c + 3 i + j of a cell is channel c of the cell i - 1 rows below and j - 1 columns to the right of it,
    zero outside the map. That is the order of ``weight.flatten(1)`` of a 3x3 convolution: the product of such a
    weight with this vector is the convolution's output before its bias. Hashing the vector is to feature mimicking
    in RetinaNet, whose classifier is a 3x3 convolution, what hashing the box head's feature is in Faster R-CNN.

    Cells in the padding of a batch of unequal images are taken as they are: where an image ends inside the map,
    its last cells see beyond it.

    Memory: nine times the map. For 256 channels at stride 8 of an 800x1333 image that is 154 MB in float32 (100 x
    167 cells of 2304 values), on both sides, and the loss holds the difference for its gradient; the coarser
    levels add a third.

    Source: DoctorKey/LSHFM.detection (11755ab), `src/model/retinanet.py`, `unfold` of the last map of the
    classification tower with padding 1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 9 C, H, W).

        Raises:
            ValueError: x is no map.
        """
        if x.dim() != 4:
            raise ValueError(
                f"a neighbourhood is that of a map's cells (B, C, H, W), but this feature has the shape "
                f"{tuple(x.shape)}: leave NEIGHBOURHOOD away, or name a map's address"
            )
        if x.numel() == 0:
            return x.repeat(1, CELLS, 1, 1)
        return F.unfold(x, 3, padding=1).unflatten(2, x.shape[-2:])

    def channels_after(self, channels: int | None) -> int | None:
        """Channels that leave for the channels that enter."""
        return None if channels is None else CELLS * channels
