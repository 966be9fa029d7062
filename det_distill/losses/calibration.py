"""Where the hashes of `LSH` cut: the mean or the median of `W f` over the teacher's features, streamed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist

HASHES_AT_ONCE = 256
"""Hash functions whose values are held at once while the median is taken (8192 rows x 256 = 8 MB)."""


class StreamedMean:
    """Exact mean of `W f` over all rows f that were added, in memory of one row."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | float = 0.0

    def add(self, rows: Tensor) -> None:
        """Count rows (R, D) in; summed in float64."""
        self.count += len(rows)
        self._sum = self._sum + rows.double().sum(0)

    def centre(self, weight: Tensor) -> Tensor:
        """Mean (N,) of `weight` (N, D) times the rows, which is `weight` times their mean."""
        return (weight.double() @ (self._sum / self.count)).to(weight.dtype)


class StreamedMedian:
    """Median of `W f` over a uniform sample, without replacement, of at most `capacity` of the rows added.

    Every row draws a key from a generator of its own (the global random state is not touched) and the rows
    with the `capacity` largest keys stay. Exact while no more rows than that were added. Of an even number of
    values the lower middle one is taken, as `torch.median` and the authors do.
    """

    def __init__(self, capacity: int = 8192, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"The median needs a reservoir of at least one row, not {capacity}.")
        self.capacity, self.count = capacity, 0
        self._generator = torch.Generator().manual_seed(seed)
        self._rows: Tensor | None = None
        self._keys = torch.empty(0, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Offer rows (R, D) to the reservoir; they are kept in float32 on their own device."""
        held, self.count = len(self._keys), self.count + len(rows)
        keys = torch.cat([self._keys, torch.rand(len(rows), generator=self._generator, dtype=torch.float64)])
        keep = keys.topk(min(self.capacity, len(keys))).indices.sort().values
        new = rows[(keep[keep >= held] - held).to(rows.device)].float()
        old = new[:0] if self._rows is None else self._rows[keep[keep < held].to(rows.device)]
        self._keys, self._rows = keys[keep], torch.cat([old, new])

    def centre(self, weight: Tensor) -> Tensor:
        """Median (N,) of `weight` (N, D) times each row of the reservoir."""
        assert self._rows is not None, "centre() is asked for only after add()"
        middle = (len(self._rows) - 1) // 2
        rows = self._rows.to(weight.dtype)
        # Sorted, not torch.median: that one is refused on GPUs under deterministic algorithms.
        return torch.cat([(rows @ part.T).sort(0).values[middle] for part in weight.split(HASHES_AT_ONCE)])


def centre_over_ranks(estimate: StreamedMean | StreamedMedian, weight: Tensor) -> Tensor:
    """Centre (N,) of the hash values, equal on all ranks; `weight` (N, D) becomes rank 0's in place.

    A single process returns its own estimate. Several average theirs, weighted by the rows that each saw:
    exact for the mean; for the median, the average of the ranks' medians. It is a collective call: every rank
    makes it.

    Raises:
        RuntimeError: no rank has seen a row.
    """
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if several:
        dist.broadcast(weight, src=0)
    count = torch.tensor(float(estimate.count), dtype=torch.float64, device=weight.device)
    total = (
        estimate.centre(weight).double() * count if estimate.count else weight.new_zeros(len(weight)).double()
    )
    if several:
        dist.all_reduce(count)
        dist.all_reduce(total)
    if count == 0:
        raise RuntimeError("LSH cannot calibrate: observe() has seen no row of the teacher's features yet.")
    return (total / count).to(weight.dtype)
