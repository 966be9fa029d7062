"""The files of torchvision's classification sets: what must be there, where to get it, how it is read.

Nothing is downloaded. File names and md5 sums are those of torchvision's own classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torchvision import datasets

from det_distill.data.idx import read_idx
from det_distill.data.problems import DatasetError

__all__ = ["SETS", "Arrays", "CifarFiles", "MnistFiles", "SetFiles", "SvhnFiles", "other_set"]

DIGITS = tuple("0123456789")
FASHION_MNIST_OF_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION_MNIST_MD5_OF_DEBIAN = (
    "cf8536b0aa1a6ac5fa3f23001093305c",  # train: images, labels
    "10bea18fdb374794d4bb42e356e600c9",
    "f78720b4224f21cce2f2ccf2d7a94c9a",  # t10k: images, labels
    "0d30e22e447f3c33dab9ed536400ac01",
)
"""The same images as torchvision's, packed again: of dataset-fashion-mnist 0.0~git20200523.55506a9-1."""


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

    def places(self, folder: Path) -> tuple[Path, ...]:
        """The roots of a ROOT that is left out; `folder` is that of all data sets."""
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

    def places(self, folder: Path) -> tuple[Path, ...]:
        """That folder."""
        return (folder,)

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

    def places(self, folder: Path) -> tuple[Path, ...]:
        """That folder."""
        return (folder,)

    def files(self, root: Path, part: str) -> list[tuple[Path, str]]:
        """The one file of the part."""
        _, file, md5 = datasets.SVHN.split_list[part]
        return [(root / file, md5)]

    def advice(self, root: Path) -> str:
        """Where to get the files."""
        known = {part: [entry[1:]] for part, entry in datasets.SVHN.split_list.items()}
        page = "http://ufldl.stanford.edu/housenumbers/"
        return f"Get the files from {page} (Format 2) and put them into {root}: {_by_part(known)}"

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

    The files of both have the same names. So files in ROOT itself count only if ROOT was named, and packed ones that
    are known to be another set's are refused (`other_set`). Plain ones, and those that somebody packed anew, are
    believed.

    Their md5 sums need not be torchvision's: packed again, as by Debian, the same images have other ones. A damaged
    packed file is found by gzip's own sum, a plain one that is cut off by its length.

    Attributes:
        dataset: torchvision's class.
        page: where to get the files.
        classes: their names.
        parts: see `SetFiles`.
        packaged: folders where a package of the system puts the files, for a ROOT that is left out.
        package: its name in Debian.
    """

    dataset: type[datasets.MNIST]
    page: str
    classes: tuple[str, ...] = DIGITS
    parts: tuple[str, ...] = ("train", "test")
    packaged: tuple[Path, ...] = ()
    package: str = ""

    def places(self, folder: Path) -> tuple[Path, ...]:
        """torchvision's folder below that one, then those of packages."""
        return (self._raw(folder), *self.packaged)

    def files(self, root: Path, part: str) -> list[tuple[Path, str]]:
        """The images and the labels, in one folder; what is missing is expected where torchvision has it."""
        files = [file for file, _ in self._resources(part)]
        raw = self._raw(root)
        found = next((f for f in (raw, root) if any(_packed_or_plain(f, file) for file in files)), raw)
        return [(_packed_or_plain(found, file) or found / file, "") for file in files]

    def advice(self, root: Path) -> str:
        """Where to get the files."""
        known = _by_part({part: self._resources(part) for part in self.parts})
        package = (
            f"\n  On Debian: apt-get install {self.package}, and leave ROOT out." if self.package else ""
        )
        folder = self._raw(root)
        itself = "" if folder == root else f", or into {root} itself, without those of another set"
        return f"Get the files from {self.page} and put them into {folder}{itself}: {known}{package}"

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
        """torchvision's folder of the files, which may be the root itself."""
        below = (self.dataset.__name__, "raw")
        return root if root.parts[-2:] == below else root.joinpath(*below)


def _by_part(files: Mapping[str, Sequence[Sequence[str]]]) -> str:
    """What to say of the (name, md5 sum) of the files that each part of a set needs."""
    return "; ".join(
        f"for '{part}' " + ", ".join(f"{file} (md5 {md5})" for file, md5 in entries)
        for part, entries in files.items()
    )


def _packed_or_plain(folder: Path, file: str) -> Path | None:
    return next((p for p in (folder / file.removesuffix(".gz"), folder / file) if p.is_file()), None)


def other_set(dataset: str, file: Path) -> str:
    """Return the name of the set that a packed file of MNIST's names is known to be of, if it is not `dataset`.

    Known are the md5 sums of torchvision and of Debian's package. "": it may be of `dataset`.
    """
    if file.suffix != ".gz":
        return ""
    md5 = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    known = {
        other.__name__: [own for _, own in other.resources]
        for other in (datasets.MNIST, datasets.FashionMNIST, datasets.KMNIST)
    }
    known["FashionMNIST"] += FASHION_MNIST_MD5_OF_DEBIAN
    owners = [name for name, sums in known.items() if md5 in sums]
    return "" if dataset in owners else next(iter(owners), "")


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
        packaged=(FASHION_MNIST_OF_DEBIAN,),
        package="dataset-fashion-mnist",
    ),
}
"""Name of torchvision's class -> its files."""
