"""What a method is given, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from ..adapters import Conv1x1, Linear
from ..taps import FeatureSpec, resolve
from ..teachers import Teacher

__all__ = ["Parts", "Side", "channel_adapter"]


class Side(NamedTuple):
    """One side of a pair as a method sees it: one address or several, and what is known of the features there.

    ``teacher`` is None on the student's side; ``model`` is the student or the teacher's model, whose modules the
    addresses name. None: not known, and nothing that is read from it is checked.
    """

    addresses: tuple[str, ...]
    specs: tuple[FeatureSpec, ...]
    teacher: Teacher | None = None
    model: nn.Module | None = None

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

    def need_maps(self, method: str) -> None:
        """Refuse features that are known to be vectors, not maps; what is not known to be either may be a map.

        Raises:
            ValueError: a vector; the message names `method` and the address.
        """
        for address, spec in zip(self.addresses, self.specs, strict=True):
            if spec.stride is None and self.model is not None and _gives_vectors(self.model, address):
                raise ValueError(
                    f"{method} compares feature maps, and {address!r} gives vectors: name a level of the feature "
                    "pyramid such as 'backbone:p3', or a stage of the backbone; FeatureMimicking takes vectors"
                )


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


def _gives_vectors(model: nn.Module, address: str) -> bool:
    """Whether a linear layer gives the feature, or a module whose declared shape has neither stride nor size."""
    if "@" in address:
        return False
    module = resolve(model, address)
    if isinstance(getattr(module, "cls_score", None), nn.Linear):  # detectron2's box predictors
        return True
    shape = getattr(module, "output_shape", None)
    shape = shape() if callable(shape) else shape
    if shape is not None and not isinstance(shape, Mapping):
        return all(getattr(shape, name, None) is None for name in ("stride", "height", "width"))
    return isinstance(_last_layer(module), nn.Linear)


def _last_layer(module: nn.Module) -> nn.Module:
    """The last layer of a sequence that has a width: neither an activation nor a normalisation behind it."""
    if not isinstance(module, nn.Sequential):
        return module
    layers = [_last_layer(m) for m in module]
    widths = ("out_features", "out_channels")
    return next((m for m in reversed(layers) if any(hasattr(m, w) for w in widths)), module)


def channel_adapter(student: Side, teacher: Side, adapter: str, *, maps: bool = False) -> nn.Module | None:
    """Return the linear map that a method's option ADAPTER asks for.

    Args:
        student: the student's side.
        teacher: the teacher's side; gives the number of channels that leave.
        adapter: ``"auto"`` (where the channels differ), ``"linear"`` (always) or ``"none"``.
        maps: whether the features must be maps, also where their strides are not known.

    Raises:
        ValueError: another choice.
    """
    if adapter not in ("auto", "linear", "none"):
        raise ValueError(f"ADAPTER {adapter!r}: choose 'auto', 'linear' or 'none'")
    if adapter == "none" or (adapter == "auto" and student.channels == teacher.channels):
        return None
    return (Conv1x1 if maps or student.is_map else Linear)(student.channels, teacher.channels)
