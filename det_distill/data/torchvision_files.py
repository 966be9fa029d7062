"""The files of torchvision's classification sets: what must be there, where to get it, how it is read.

Nothing is downloaded. File names and md5 sums are those of torchvision's own classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torchvision import datasets

from det_distill.data.idx import read_idx
from det_distill.data.problems import DatasetError

__all__ = ["SETS", "Arrays", "CifarFiles", "MnistFiles", "SetFiles", "SvhnFiles"]

DIGITS = tuple("0123456789")
FASHION_MNIST_OF_DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Arrays:
    """One part of a set: `pixels` uint8 (N, H, W) or (N, H, W, 3), `labels` (N,), the names of the classes."""

    pixels: np.ndarray
    labels: Sequence[int] | np.ndarray
    classes: tuple[str, ...]


class SetFiles(Protocol):
    """A set on disk."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of its parts, as "train" and "test"."""
        ...

    @property
    def places(self) -> tuple[Path, ...]:
        """Folders where a package of the system puts its files, for a ROOT that is left out."""
        ...

    def files(self, root: Path, part: str) -> list[tuple[Path, str]]:
        """The files that `read` needs, with their md5 sums ("": not known)."""
        ...

    def advice(self, root: Path) -> str:
        """Where to get the files and where to put them."""
        ...

    def read(self, root: Path, part: str) -> Arrays:
        """Read a part, whose files were found and whose md5 sums are right.

        Raises:
            ValueError: a file is not what it should be; says which.
        """
        ...


@dataclass(frozen=True)
class CifarFiles:
    """CIFAR-10 and CIFAR-100 in their "python version".

    These files are pickles, which could run any code. torchvision compares the md5 sums of all of them before it opens
    one, so only the official files are ever unpickled.
    """

    dataset: type[datasets.CIFAR10]
    parts: tuple[str, ...] = ("train", "test")
    places: tuple[Path, ...] = ()

    def files(self, root: Path, part: str) -> list[tuple[Path, str]]:
        """All files, since torchvision asks for all of them."""
        meta = (self.dataset.meta["filename"], self.dataset.meta["md5"])
        entries = [*map(tuple, self.dataset.train_list), *map(tuple, self.dataset.test_list), meta]
        return [(root / self.dataset.base_folder / file, md5) for file, md5 in entries]

    def advice(self, root: Path) -> str:
        """Where to get the archive and how to unpack it."""
        archive = self.dataset.filename
        if (root / archive).is_file():
            return f"{root / archive} is still packed: tar -xzf {root / archive} -C {root}"
        return (
            f"Get {archive} (md5 {self.dataset.tgz_md5}) from https://www.cs.toronto.edu/~kriz/cifar.html and unpack "
            f"it: tar -xzf {archive} -C {root}"
        )

    def read(self, root: Path, part: str) -> Arrays:
        """Read one part with torchvision's class."""
        found = self.dataset(str(root), train=part == "train", download=False)
        return Arrays(found.data, found.targets, tuple(found.classes))


@dataclass(frozen=True)
class SvhnFiles:
    """Street view house numbers, cropped digits ("Format 2"); the label 10 of the files becomes 0."""

    parts: tuple[str, ...] = ("train", "test", "extra")
    places: tuple[Path, ...] = ()

    def files(self, root: Path, part: str) -> list[tuple[Path, str]]:
        """The one file of the part."""
        _, file, md5 = datasets.SVHN.split_list[part]
        return [(root / file, md5)]

    def advice(self, root: Path) -> str:
        """Where to get the files."""
        known = ", ".join(f"{file} (md5 {md5})" for _, file, md5 in datasets.SVHN.split_list.values())
        page = "http://ufldl.stanford.edu/housenumbers/"
        return f"Get the files from {page} (Format 2) and put them into {root}: {known}"

    def read(self, root: Path, part: str) -> Arrays:
        """Read one part with torchvision's class.

        Raises:
            DatasetError: the package scipy is missing.
        """
        try:
            import scipy.io  # noqa: F401
        except ImportError as error:
            raise DatasetError(
                "SVHN's files need the package scipy to be read: `pip install det_distill[svhn]`."
            ) from error
        found = datasets.SVHN(str(root), split=part, download=False)
        return Arrays(found.data.transpose(0, 2, 3, 1), found.labels, DIGITS)


@dataclass(frozen=True)
class MnistFiles:
    """MNIST and Fashion-MNIST: IDX files, plain or packed by gzip, in torchvision's `<ROOT>/<set>/raw` or in ROOT.

    Their md5 sums are not compared: packed again, as by Debian, the same images have other ones. A damaged packed file
    is found by gzip's own sum, a plain one that is cut off by its length.
    """

    dataset: type[datasets.MNIST]
    page: str
    classes: tuple[str, ...] = DIGITS
    parts: tuple[str, ...] = ("train", "test")
    places: tuple[Path, ...] = ()
    package: str = ""

    def files(self, root: Path, part: str) -> list[tuple[Path, str]]:
        """The images and the labels, each where it lies; what is missing is expected where torchvision has it."""
        return [(self._found(root, file), "") for file, _ in self._resources(part)]

    def advice(self, root: Path) -> str:
        """Where to get the files."""
        known = ", ".join(f"{file} (md5 {md5})" for part in self.parts for file, md5 in self._resources(part))
        package = (
            f"\n  On Debian: apt-get install {self.package}, and leave ROOT out." if self.package else ""
        )
        folder = self._raw(root)
        return f"Get the files from {self.page} and put them into {folder}, or into {root} itself: {known}{package}"

    def read(self, root: Path, part: str) -> Arrays:
        """Read one part.

        Raises:
            ValueError: a file is cut off or no IDX file; names it.
        """
        arrays: list[np.ndarray] = []
        for (path, _), dimensions in zip(self.files(root, part), (3, 1), strict=True):
            try:
                arrays.append(read_idx(path, dimensions))
            except (ValueError, OSError) as error:
                raise ValueError(f"{path}: {error}") from error
        return Arrays(arrays[0], arrays[1], self.classes)

    def _resources(self, part: str) -> list[Any]:
        """(file name, md5 sum) of the images and of the labels."""
        prefix = "train-" if part == "train" else "t10k-"
        images, labels = (entry for entry in self.dataset.resources if entry[0].startswith(prefix))
        return [images, labels]

    def _raw(self, root: Path) -> Path:
        return root / self.dataset.__name__ / "raw"

    def _found(self, root: Path, file: str) -> Path:
        # first torchvision's folder: in ROOT itself, files of MNIST and of Fashion-MNIST have the same names
        places = [f / name for f in (self._raw(root), root) for name in (file.removesuffix(".gz"), file)]
        return next((path for path in places if path.is_file()), self._raw(root) / file)


SETS: dict[str, SetFiles] = {
    "CIFAR10": CifarFiles(datasets.CIFAR10),
    "CIFAR100": CifarFiles(datasets.CIFAR100),
    "SVHN": SvhnFiles(),
    "MNIST": MnistFiles(
        datasets.MNIST, "http://yann.lecun.com/exdb/mnist/ or https://ossci-datasets.s3.amazonaws.com/mnist/"
    ),
    "FashionMNIST": MnistFiles(
        datasets.FashionMNIST,
        "https://github.com/zalandoresearch/fashion-mnist",
        tuple(datasets.FashionMNIST.classes),
        places=(FASHION_MNIST_OF_DEBIAN,),
        package="dataset-fashion-mnist",
    ),
}
"""Name of torchvision's class -> its files."""
