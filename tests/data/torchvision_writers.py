"""Small sets in the formats of CIFAR, SVHN and MNIST, with torchvision's md5 sums made to fit."""

import gzip
import hashlib
import pickle

import numpy as np
import scipy.io
from torchvision import datasets


def md5_of(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def images(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(path, array):
    """Labels (N,) or images (N, H, W); packed if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = head + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, counts=(12, 5), suffix=".gz"):
    """The four files; image i of a part has the label i % 10."""
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images(count, 28, 28))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", np.arange(count, dtype=np.uint8) % 10)
    return folder


def write_cifar(root, monkeypatch, dataset=datasets.CIFAR10, per_file=3):
    """Pickles with rows of 3 x 32 x 32 values; the label of image i of a file is i."""
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    label_key = "labels" if dataset is datasets.CIFAR10 else "fine_labels"
    lists = {"train_list": dataset.train_list, "test_list": dataset.test_list}
    for attribute, entries in lists.items():
        found = []
        for seed, (file, _) in enumerate(entries):
            data = images(per_file, 3 * 32 * 32, seed=seed)
            (folder / file).write_bytes(pickle.dumps({"data": data, label_key: list(range(per_file))}))
            found.append([file, md5_of(folder / file)])
        monkeypatch.setattr(dataset, attribute, found)
    meta = folder / dataset.meta["filename"]
    meta.write_bytes(pickle.dumps({dataset.meta["key"]: ["red", "green", "blue"]}))
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5_of(meta)})
    return root


def write_svhn(root, monkeypatch, counts):
    """The .mat file of each part of `counts`; labels go 1, 2, ... 10 (the digit 0), 1, ..."""
    root.mkdir(exist_ok=True)
    known = {}
    for part, count in counts.items():
        url, file, _ = datasets.SVHN.split_list[part]
        labels = (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)
        scipy.io.savemat(root / file, {"X": images(count, 32, 32, 3).transpose(1, 2, 3, 0), "y": labels})
        known[part] = [url, file, md5_of(root / file)]
    monkeypatch.setattr(datasets.SVHN, "split_list", {**datasets.SVHN.split_list, **known})
    return root
