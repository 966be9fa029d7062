"""An adapter of its own for each of a side's features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn


class Each(nn.Module):
    """Applies the n-th adapter to the n-th feature: a list in, a list of the same length out.

    Unlike a plain adapter, which a pair with several addresses applies to every feature alike.

    Raises:
        ValueError: in the forward pass, more or fewer features than adapters.
    """

    takes_all = True

    def __init__(self, adapters: Iterable[nn.Module]) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(adapters)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return each feature, adapted."""
        if len(features) != len(self.adapters):
            raise ValueError(f"{len(self.adapters)} adapters cannot adapt {len(features)} features")
        return [adapter(feature) for adapter, feature in zip(self.adapters, features, strict=True)]
