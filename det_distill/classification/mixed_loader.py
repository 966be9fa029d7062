"""A training loader whose batches are mixed before any model sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from detectron2.utils import comm

from ..data.loader import TrainingLoader

__all__ = ["MixedLoader"]


class MixedLoader:
    """The batches of another loader, mixed.

    How batch n is mixed is a function of seed, n and this process's rank: a process mixes its own images alone.

    Args:
        loader: gives the batches.
        mix: (batch, seed of this batch) -> mixed batch.
        seed: returns the run's seed.
    """

    def __init__(
        self,
        loader: TrainingLoader,
        mix: Callable[[list[dict[str, Any]], int], list[dict[str, Any]]],
        seed: Callable[[], int],
    ) -> None:
        self._loader, self._mix, self._seed = loader, mix, seed

    @property
    def start(self) -> int:
        """The batch that ``iter()`` starts at."""
        return self._loader.start

    @start.setter
    def start(self, number: int) -> None:
        self._loader.start = number

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        run, rank = self._seed() & 0xFFFFFFFF, comm.get_rank()
        for number, batch in enumerate(self._loader, self.start):
            words = np.random.SeedSequence((run, 3, rank, number)).generate_state(1)
            yield self._mix(batch, int(words[0]))
