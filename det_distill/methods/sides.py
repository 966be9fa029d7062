"""What a method is given, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from ..adapters import Conv1x1, Linear
from ..taps import FeatureSpec
from ..teachers import Teacher

__all__ = ["Parts", "Side", "channel_adapter"]


class Side(NamedTuple):
    """One side of a pair as a method sees it: one address or several, and what is known of the features there."""

    addresses: tuple[str, ...]
    specs: tuple[FeatureSpec, ...]
    teacher: Teacher | None = None

    @property
    def address(self) -> str:
        """The only address.

        Raises:
            ValueError: there are several.
        """
        if len(self.addresses) != 1:
            raise ValueError(
                f"this method compares single features, and got {len(self.addresses)} addresses for one pair: "
                f"{', '.join(self.addresses)}. One list level less in AT makes a pair of each"
            )
        return self.addresses[0]

    @property
    def spec(self) -> FeatureSpec:
        """What is known of the feature at `address`."""
        return self.specs[self.addresses.index(self.address)]

    @property
    def channels(self) -> int:
        """The feature's channels.

        Raises:
            ValueError: the model does not declare them.
        """
        if self.spec.channels is None:
            raise ValueError(
                f"the channels of {self.address!r} are not declared by the model: set "
                "STUDENT_CHANNELS / TEACHER_CHANNELS of the pair"
            )
        return self.spec.channels

    @property
    def all_channels(self) -> list[int]:
        """The channels of the feature at each of the addresses.

        Raises:
            ValueError: the model does not declare some of them.
        """
        return [Side((a,), (s,)).channels for a, s in zip(self.addresses, self.specs, strict=True)]

    @property
    def is_map(self) -> bool:
        """Whether this is known to be a feature map, by its having a stride."""
        return self.spec.stride is not None


class Parts(NamedTuple):
    """What a method returns: the loss or losses, and the adapters in front of them.

    ``weights`` are factors of named losses within the pair's weight. ``ensemble`` makes one feature of a list of
    several teachers' (``TEACHER_NAMES``); without it each of them gets a pair of its own.
    """

    loss: nn.Module | Mapping[str, nn.Module]
    student_adapter: nn.Module | None = None
    teacher_adapter: nn.Module | None = None
    weights: Mapping[str, float] | None = None
    ensemble: nn.Module | None = None


def channel_adapter(student: Side, teacher: Side, adapter: str) -> nn.Module | None:
    """Return the linear map that a method's option ADAPTER asks for.

    Args:
        student: the student's side.
        teacher: the teacher's side; gives the number of channels that leave.
        adapter: ``"auto"`` (where the channels differ), ``"linear"`` (always) or ``"none"``.

    Raises:
        ValueError: another choice.
    """
    if adapter not in ("auto", "linear", "none"):
        raise ValueError(f"ADAPTER {adapter!r}: choose 'auto', 'linear' or 'none'")
    if adapter == "none" or (adapter == "auto" and student.channels == teacher.channels):
        return None
    return (Conv1x1 if student.is_map else Linear)(student.channels, teacher.channels)
