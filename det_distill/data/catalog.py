"""Names in detectron2's DatasetCatalog: each registered once, each loaded once per process."""

import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from detectron2.data import DatasetCatalog


class Source(Protocol):
    """Where a dataset comes from; two equal sources are the same dataset."""

    def load(self, name: str) -> list[dict[str, Any]]:
        """Read and check the files; complete the metadata of `name`; return detectron2's standard dicts."""
        ...


@dataclass
class LoadedOnce:
    """What DatasetCatalog calls: reads the files at the first call and returns fresh copies afterwards.

    Numpy arrays in the dicts (pixels) are not copied: every call gives views of the same memory, so a source makes them
    read-only.

    Attributes:
        name: the dataset's name.
        source: where it comes from.
    """

    name: str
    source: Source
    _pickled: bytes | None = field(default=None, init=False, repr=False, compare=False)
    _arrays: list[pickle.PickleBuffer] = field(default_factory=list, init=False, repr=False, compare=False)

    def __call__(self) -> list[dict[str, Any]]:
        """The dataset's dicts, which the caller may change."""
        if self._pickled is None:
            dicts, self._arrays = self.source.load(self.name), []
            self._pickled = pickle.dumps(dicts, protocol=5, buffer_callback=self._arrays.append)
        return pickle.loads(self._pickled, buffers=self._arrays)


def register_once(name: str, source: Source) -> bool:
    """Register a dataset unless just this one is there already.

    Args:
        name: the dataset's name.
        source: where it comes from.

    Returns:
        True if it was registered now, False if an equal source already has the name.

    Raises:
        ValueError: the name belongs to another dataset, a built-in one for example.
    """
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, LoadedOnce(name, source))
        return True
    known = DatasetCatalog[name]
    if not isinstance(known, LoadedOnce):
        raise ValueError(
            f"The dataset name '{name}' is already registered by detectron2 or by other code. "
            "Choose another name in DATASETS."
        )
    if known.source != source:
        raise ValueError(
            f"The dataset name '{name}' is already registered for something else.\n"
            f"  registered: {known.source}\n  now asked:  {source}\nChoose another name."
        )
    return False


def dataset_folder() -> Path:
    """The folder of detectron2's built-in datasets: $DETECTRON2_DATASETS, or "datasets"."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def resolve_path(path: str | Path) -> Path:
    """The absolute path of a dataset's file or folder.

    Args:
        path: absolute, or relative to the working directory or (if nothing is there) to `dataset_folder`.
            "~" is expanded.  The path need not exist: loading reports it.
    """
    given = Path(path).expanduser()
    fallback = dataset_folder() / given
    return (fallback if not given.exists() and fallback.exists() else given).absolute()
