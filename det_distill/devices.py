"""Names of devices, checked where a person wrote them."""

from __future__ import annotations

import torch

__all__ = ["kind_of_device"]


def kind_of_device(name: str, what: str) -> str:
    """Return what a device is, ``"cpu"`` or ``"cuda"`` for example, whether it is there or not.

    Args:
        name: as torch takes it: ``"cuda:1"``.
        what: what it is the value of, for the message: ``"MODEL.DEVICE"``.

    Raises:
        ValueError: torch knows no such device.
    """
    try:
        return torch.device(name).type
    except RuntimeError:
        raise ValueError(f"{what} {name!r}: choose cpu, cuda or cuda:N") from None
