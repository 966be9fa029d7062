"""Images that cannot be used, told by the process that trains and not by the worker that read them.

torch passes an exception of a worker on with the worker's traceback in its message. Here a worker hands the error over
in place of the sample, and the loader raises it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch.utils.data import DataLoader

from .problems import DatasetError

__all__ = ["Failure", "Guarded", "GuardedLoader", "raised"]

Sample = dict[str, Any]

_UNREADABLE = (OSError, EOFError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for an image that is cut short, broken, or larger than it will decode."""


@dataclass(frozen=True)
class Failure:
    """In place of a sample: why there is none."""

    reason: str


@dataclass(frozen=True)
class Guarded:
    """A mapper whose `DatasetError`, or error of a file, becomes a `Failure`; other exceptions, mistakes, pass."""

    mapper: Callable[[Sample], Sample | None]

    def __call__(self, record: Sample) -> Sample | Failure | None:
        """Return what the mapper returns, or the `Failure`."""
        try:
            return self.mapper(record)
        except DatasetError as error:
            return Failure(str(error))
        except _UNREADABLE as error:
            return Failure(
                f"cannot read {record.get('file_name')}: {error}. Replace the file or take it out of the data set"
            )


def raised(batch: list[Any]) -> list[Sample]:
    """Return a batch of a loader with a `Guarded` mapper.

    Raises:
        DatasetError: it holds a `Failure`.
    """
    for sample in batch:
        if isinstance(sample, Failure):
            raise DatasetError(sample.reason)
    return batch


class GuardedLoader(DataLoader):
    """torch's, for samples of a `Guarded` mapper and batches that are lists: see `raised`."""

    def __iter__(self) -> Iterator[list[Sample]]:  # type: ignore[override]
        return map(raised, super().__iter__())
