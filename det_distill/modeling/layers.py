"""The convolution and the norm of this package's networks."""

from __future__ import annotations

from collections.abc import Callable

from detectron2.layers import Conv2d, get_norm
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn

__all__ = ["conv", "norm_layer"]


def conv(
    in_channels: int,
    out_channels: int,
    size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    norm: str = "",
    bias: bool | None = None,
    activation: Callable[[Tensor], Tensor] | None = None,
) -> Conv2d:
    """Return a ``size x size`` convolution, then a norm, then an activation, as one module.

    Weights are initialised as in He et al., arXiv:1502.01852 (normal, variance 2 / (C_out * size^2)), biases are zero.

    Args:
        in_channels, out_channels, size, stride: of the convolution.
        padding: zeros on every side; None: half of `size`, so that stride 1 keeps the size of a map.
        norm: a name that detectron2's ``get_norm`` knows; ``""``: none.
        bias: None: only where there is no norm.
        activation: None: none.
    """
    layer = Conv2d(
        in_channels,
        out_channels,
        kernel_size=size,
        stride=stride,
        padding=size // 2 if padding is None else padding,
        bias=norm == "" if bias is None else bias,
        norm=norm_layer(norm, out_channels),
        activation=activation,
    )
    c2_msra_fill(layer)
    return layer


def norm_layer(norm: str, channels: int) -> nn.Module | None:
    """Return what detectron2's ``get_norm`` makes of a name: None for ``""``.

    Raises:
        ValueError: ``"GN"``, which has 32 groups, for channels that 32 does not divide.
    """
    if norm == "GN" and channels % 32:
        raise ValueError(
            f"norm 'GN' makes 32 groups, but a layer of this network has {channels} channels: use 'BN', or a "
            "width that gives multiples of 32"
        )
    layer: nn.Module | None = get_norm(norm, channels)
    return layer
