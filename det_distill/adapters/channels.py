"""How many channels leave an adapter."""

from __future__ import annotations

from torch import nn

__all__ = ["channels_after"]


def channels_after(adapter: nn.Module | None, channels: int | None) -> int | None:
    """Return the channels that leave `adapter` when `channels` enter; None: not known.

    An adapter tells by a method ``channels_after(channels)`` or an attribute ``out_channels``, ``factor_channels`` or
    ``out_features``; one without these keeps the number if it has no parameters.
    """
    if adapter is None:
        return channels
    if hasattr(adapter, "channels_after"):
        return adapter.channels_after(channels)  # type: ignore[operator]
    if isinstance(adapter, nn.Sequential):
        for layer in adapter:
            channels = channels_after(layer, channels)
        return channels
    names = ("out_channels", "factor_channels", "out_features")
    known = next((getattr(adapter, n) for n in names if hasattr(adapter, n)), None)
    return channels if known is None and next(adapter.parameters(), None) is None else known
