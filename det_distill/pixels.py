"""How a network wants its pixels, as its checkpoint says it, and a warning where another model gives it others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["compare_pixels", "differing_pixels", "pixels_of"]

logger = logging.getLogger(__name__)

_KEYS = {
    "input_format": "INPUT.FORMAT",
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
}


def pixels_of(model: nn.Module) -> dict[str, Any]:
    """Return ``input_format`` (a text), ``pixel_mean`` and ``pixel_std`` (lists of numbers), as far as there are."""
    found: dict[str, Any] = {}
    if isinstance(getattr(model, "input_format", None), str):
        found["input_format"] = model.input_format
    for name in ("pixel_mean", "pixel_std"):
        if getattr(model, name, None) is not None:
            found[name] = [round(x, 4) for x in torch.as_tensor(getattr(model, name)).flatten().tolist()]
    return found


def compare_pixels(theirs: Mapping[str, Any], ours: Mapping[str, Any], file: str) -> None:
    """Warn if a network gets other pixels than it was trained with, see `differing_pixels`, and say what to set.

    Args:
        theirs: what `pixels_of` said of the network in the file.
        ours: of the model that it is loaded into.
        file: its name.
    """
    both = [k for k in _KEYS if k in theirs and k in ours]
    differing = differing_pixels(theirs, ours)
    if differing:
        wanted = ", ".join(f"{_KEYS[k]}: {_shown(theirs[k])}" for k in both)
        logger.warning(
            "%s was trained on other pixels than this model gets: %s. Set %s",
            *(file, "; ".join(differing), wanted),
        )


def differing_pixels(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Return what is other about the pixels that a model gets than about those that a network was trained with.

    Other are: channels in another order, be mean and standard deviation swapped with them or not; a mean that differs
    by more than 0.1 of 255 grey levels, a standard deviation by more than 1 %. What either side does not say is not
    compared.

    Args:
        theirs: what `pixels_of` said of the network that was trained.
        ours: of the model.
    """
    both = [k for k in _KEYS if k in theirs and k in ours]
    return [text for k in both if (text := _difference(k, theirs, ours))]


def _difference(key: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """What is other about one of the three; "": nothing that setting the format would not mend."""
    a, b = theirs[key], ours[key]
    swapped = {theirs.get("input_format"), ours.get("input_format")} == {"RGB", "BGR"}
    if key == "input_format":
        order = "its channels are swapped, " if swapped else ""
        return "" if a == b else f"{order}{_KEYS[key]} was {_shown(a)} and is {_shown(b)}"
    if _alike(key, a, b) or (swapped and _alike(key, a, b[::-1])):
        return ""
    order = ", in reverse order" if _alike(key, a, b[::-1]) else ""
    return f"{_KEYS[key]} was {_shown(a)} and is {_shown(b)}{order}"


def _alike(key: str, a: Sequence[float], b: Sequence[float]) -> bool:
    if len(a) != len(b):
        return False
    least, share = (0.1, 0.0) if key == "pixel_mean" else (0.0, 0.01)
    return all(abs(x - y) <= least + share * abs(x) for x, y in zip(a, b, strict=True))


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else f"[{', '.join(f'{x:g}' for x in value)}]"
