"""torchvision's sets from local files: what is listed, which images a split takes, and what is said of bad files."""

import gzip
import re
import sys

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from torchvision import datasets
from torchvision_writers import images, md5_of, write_cifar, write_idx, write_mnist, write_svhn

from det_distill.config import get_cfg
from det_distill.data import DatasetError, check_datasets, register_from_config, register_torchvision
from det_distill.data.torchvision_files import SETS, MnistFiles
from det_distill.data.torchvision_sets import load_torchvision
from tests.tiny import classifier_cfg


def load(dataset, root, split="train"):
    return load_torchvision(dataset, root, split)[0]


def pixels_of(dicts):
    return np.stack([record["pixels"] for record in dicts])


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "MNIST/raw"])
def test_mnist_is_read_plain_or_packed_from_either_folder(tmp_path, folder, suffix):
    write_mnist(tmp_path / folder, suffix=suffix)
    train, test = load("MNIST", tmp_path), load("MNIST", tmp_path, "test")
    assert np.array_equal(pixels_of(train), images(12, 28, 28)) and len(test) == 5
    assert [record["label"] for record in train] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert [train[0]["image_id"], test[4]["image_id"]] == ["train/00000", "test/00004"]


def test_plain_idx_files_give_what_torchvision_itself_gives(tmp_path):
    write_mnist(tmp_path / "FashionMNIST" / "raw", suffix="")
    theirs = datasets.FashionMNIST(tmp_path, train=False)
    ours, classes = load_torchvision("FashionMNIST", tmp_path, "test")
    assert np.array_equal(pixels_of(ours), theirs.data.numpy())
    assert [record["label"] for record in ours] == theirs.targets.tolist() and list(classes) == theirs.classes


@pytest.mark.parametrize("dataset", [datasets.CIFAR10, datasets.CIFAR100])
def test_cifar_gives_what_torchvision_itself_gives(tmp_path, monkeypatch, dataset):
    root = write_cifar(tmp_path, monkeypatch, dataset)
    for part in ("train", "test"):
        theirs = dataset(root, train=part == "train")
        ours, classes = load_torchvision(dataset.__name__, root, part)
        assert [record["label"] for record in ours] == theirs.targets and classes == ("red", "green", "blue")
        assert np.array_equal(pixels_of(ours), np.stack([np.asarray(image) for image, _ in theirs]))


def test_svhn_gives_what_torchvision_itself_gives(tmp_path, monkeypatch):
    root = write_svhn(tmp_path, monkeypatch, {"train": 11, "extra": 4})
    theirs = [
        datasets.SVHN(root, part)[i] for part, count in (("train", 11), ("extra", 4)) for i in range(count)
    ]
    ours = load("SVHN", root, "train+extra")
    assert [record["label"] for record in ours] == [label for _, label in theirs]
    assert ours[9]["label"] == 0  # the file says 10
    assert np.array_equal(pixels_of(ours), np.stack([np.asarray(image) for image, _ in theirs]))


def test_the_pixels_lie_in_memory_once_and_cannot_be_changed(tmp_path):
    register_torchvision("digits", "MNIST", write_mnist(tmp_path), "train[2:]")
    first, second = DatasetCatalog.get("digits"), DatasetCatalog.get("digits")
    first[0]["label"] = 5
    assert second[0]["label"] == 2
    assert np.shares_memory(first[3]["pixels"], second[3]["pixels"])
    with pytest.raises(ValueError, match="read-only"):
        second[0]["pixels"][:] = 0


def test_a_split_takes_ranges_of_the_images_of_several_parts(tmp_path, monkeypatch):
    root = write_svhn(tmp_path, monkeypatch, {"train": 6, "extra": 4})
    ids = [record["image_id"] for record in load("SVHN", root, "train[4:] + extra[:-2] + train[1:2]")]
    assert ids == ["train/00004", "train/00005", "extra/00000", "extra/00001", "train/00001"]
    assert np.array_equal(pixels_of(load("SVHN", root, "train[-2:]")), images(6, 32, 32, 3)[4:])


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("train[:13]", r"'train\[:13\]': 'train' has 12 images, there is no number 13"),
        ("train[-13:]", "there is no number -13"),
        ("train[6:6]", "the range is empty"),
        ("train[12:]", "the range is empty"),
        ("train[:6]+train[5:]", "some images twice: its ranges overlap"),
    ],
)
def test_a_range_that_the_images_do_not_have_is_an_error(tmp_path, split, message):
    write_mnist(tmp_path)
    with pytest.raises(DatasetError, match=message):
        load("MNIST", tmp_path, split)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"ROOT": "a", "SPLIT": "train"}, "needs DATASET"),
        ({"DATASET": "MNIST"}, "needs SPLIT"),
        (
            {"DATASET": "Cifar10", "SPLIT": "train"},
            "'Cifar10' is none of torchvision's sets CIFAR10, CIFAR100",
        ),
        (
            {"DATASET": "MNIST", "SPLIT": "val"},
            "cannot be read at 'val': write 'train' or 'test', with a range",
        ),
        ({"DATASET": "MNIST", "SPLIT": "extra"}, "cannot be read at 'extra'"),
        ({"DATASET": "SVHN", "SPLIT": "train+extra[5]"}, r"cannot be read at 'extra\[5\]'"),
        ({"DATASET": "MNIST", "SPLIT": 5}, "SPLIT must be a text"),
        ({"DATASET": "MNIST", "SPLIT": "train", "CLASSES": []}, r"unknown keys \['CLASSES'\]"),
        ("MNIST", "must be a mapping with the keys DATASET, ROOT, SPLIT"),
    ],
)
def test_a_wrong_entry_is_an_error_that_names_it(entry, message):
    cfg = get_cfg()
    cfg.DATASETS.TORCHVISION.digits = CfgNode(entry) if isinstance(entry, dict) else entry
    with pytest.raises(ValueError, match=rf"digits.*{message}"):
        register_from_config(cfg)


def test_a_config_registers_held_out_images_and_the_check_knows_their_classes(tmp_path, monkeypatch):
    write_mnist(tmp_path / "here" / "mnist")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "here"))
    cfg = classifier_cfg(classes=10)
    for name, split in (("digits_train", "train[4:]"), ("digits_val", "train[:4]")):
        cfg.DATASETS.TORCHVISION[name] = CfgNode({"DATASET": "MNIST", "ROOT": "mnist", "SPLIT": split})
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("digits_train",), ("digits_val",)
    register_from_config(cfg)
    register_from_config(cfg)
    check_datasets(cfg, 10, classes_key="MODEL.CLASSIFIER.NUM_CLASSES")
    assert [len(DatasetCatalog.get(name)) for name in ("digits_train", "digits_val")] == [8, 4]
    metadata = MetadataCatalog.get("digits_val")
    assert (metadata.evaluator_type, metadata.thing_classes) == ("image_classification", list("0123456789"))
    with pytest.raises(
        DatasetError, match="'digits_train' has 10 classes .*Set MODEL.CLASSIFIER.NUM_CLASSES to 10"
    ):
        check_datasets(cfg, 100, classes_key="MODEL.CLASSIFIER.NUM_CLASSES")


def debian_has_fashion_mnist(tmp_path, monkeypatch):
    """Three images a part in the place of the package; the folder of detectron2's data sets is tmp_path/sets."""
    packaged = write_mnist(tmp_path / "usr", counts=(3, 3))
    monkeypatch.setitem(SETS, "FashionMNIST", MnistFiles(datasets.FashionMNIST, "", packaged=(packaged,)))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_without_a_root_files_that_lie_in_the_folder_of_all_sets_itself_do_not_count(
    tmp_path, monkeypatch, suffix
):
    debian_has_fashion_mnist(tmp_path, monkeypatch)
    write_mnist(tmp_path / "sets", suffix=suffix)  # digits or clothes: their names do not tell
    register_torchvision(f"clothes{suffix}", "FashionMNIST", "", "test")
    assert len(DatasetCatalog.get(f"clothes{suffix}")) == 3
    register_torchvision(f"figures{suffix}", "MNIST", "", "test")
    raw = tmp_path / "sets" / "MNIST" / "raw"
    with pytest.raises(
        DatasetError,
        match=rf"missing: 2 (.|\n)*{raw}/t10k-images(.|\n)*put them into {raw}: for 'train' train",
    ):
        DatasetCatalog.get(f"figures{suffix}")


@pytest.mark.parametrize("folder", ["", "MNIST/raw"])
@pytest.mark.parametrize("other", ["FashionMNIST", "KMNIST"])
def test_packed_files_that_are_known_to_be_another_sets_are_refused(tmp_path, monkeypatch, folder, other):
    write_mnist(tmp_path / folder)
    files = sorted((tmp_path / folder).iterdir())
    monkeypatch.setattr(getattr(datasets, other), "resources", [(f.name, md5_of(f)) for f in files])
    with pytest.raises(
        DatasetError,
        match=rf"data file of another set: 2 .*folder of its own(.|\n)*train-images\S* .its md5 sum is of {other}",
    ):
        load("MNIST", tmp_path)
    monkeypatch.setattr(datasets.MNIST, "resources", getattr(datasets, other).resources)
    assert len(load("MNIST", tmp_path)) == 12  # as torchvision's own sums have it


def test_the_packed_files_of_debian_are_known_to_be_fashion_mnist(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    sums = {file.name: md5_of(file) for file in tmp_path.iterdir()}
    monkeypatch.setattr(
        "det_distill.data.torchvision_files.FASHION_MNIST_MD5_OF_DEBIAN", tuple(sums.values())
    )
    assert len(load("FashionMNIST", tmp_path)) == 12
    with pytest.raises(DatasetError, match="its md5 sum is of FashionMNIST"):
        load("MNIST", tmp_path)


def test_images_and_labels_are_of_one_folder(tmp_path):
    raw = write_mnist(tmp_path) / "MNIST" / "raw"
    write_mnist(raw, counts=(4, 4))
    (raw / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DatasetError, match=rf"missing: 1 (.|\n)*{raw}/train-labels-idx1-ubyte.gz"):
        load("MNIST", tmp_path)


def test_torchvisions_folder_of_the_files_itself_may_be_the_root(tmp_path):
    raw = write_mnist(tmp_path / "MNIST" / "raw")
    assert len(load("MNIST", raw)) == 12
    (raw / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DatasetError, match=rf"{raw}/train-images(.|\n)*put them into {raw}: "):
        load("MNIST", raw)


def test_without_a_root_the_folder_of_detectron2_comes_before_that_of_debian(tmp_path, monkeypatch):
    debian_has_fashion_mnist(tmp_path, monkeypatch)
    register_torchvision("debian", "FashionMNIST", "", "test")
    assert len(DatasetCatalog.get("debian")) == 3
    write_mnist(tmp_path / "sets" / "FashionMNIST" / "raw", counts=(4, 4))
    register_torchvision("own", "FashionMNIST", "", "train")
    assert len(DatasetCatalog.get("own")) == 4


@pytest.mark.parametrize(
    ("dataset", "missing", "where"),
    [
        (
            "CIFAR10",
            7,
            r"cifar-10-batches-py/test_batch(.|\n)*cifar-10-python.tar.gz .md5 c58f.*cs.toronto.edu.*tar -xzf",
        ),
        (
            "CIFAR100",
            3,
            r"cifar-100-python/meta(.|\n)*cifar-100-python.tar.gz .md5 eb90.*cs.toronto.edu.*tar -xzf",
        ),
        ("SVHN", 1, r"train_32x32.mat(.|\n)*ufldl.stanford.edu/housenumbers(.|\n)*extra_32x32.mat .md5 a93c"),
        ("MNIST", 2, r"MNIST/raw/train-images-idx3-ubyte.gz(.|\n)*yann.lecun.com(.|\n)*.md5 f68b"),
        (
            "FashionMNIST",
            2,
            r"FashionMNIST/raw(.|\n)*zalandoresearch/fashion-mnist(.|\n)*apt-get install dataset-fashion-mnist",
        ),
    ],
)
def test_missing_files_are_named_with_where_to_get_them_and_where_to_put_them(
    tmp_path, dataset, missing, where
):
    with pytest.raises(
        DatasetError, match=rf"(?s){dataset} in {tmp_path} .*missing: {missing} .*{tmp_path}/{where}"
    ):
        load(dataset, tmp_path)


def test_files_that_a_split_does_not_need_are_told_apart(tmp_path):
    """What is listed as missing is what this split needs; the advice has the files of all parts."""
    write_mnist(tmp_path)
    for part, prefix, other in (("train", "train", "t10k"), ("test", "t10k", "train")):
        for file in tmp_path.glob(f"{prefix}-*"):
            file.unlink()
        with pytest.raises(DatasetError) as error:
            load("MNIST", tmp_path, part)
        listed, advice = str(error.value).split("Get the files")
        assert listed.count(f"{prefix}-") == 2 and other not in listed
        train = r"for 'train' train-images\S+ \(md5 \w+\), train-labels\S+ \(md5 \w+\)"
        assert re.search(train + r"; for 'test' t10k-images\S+ \(md5 \w+\), t10k-labels\S+ \(md5", advice)
    with pytest.raises(DatasetError, match=r"; for 'extra' extra_32x32.mat \(md5"):
        load("SVHN", tmp_path, "test")


def test_an_archive_that_was_not_unpacked_is_noticed(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(
        DatasetError, match=f"is still packed: tar -xzf {tmp_path}/cifar-10-python.tar.gz -C {tmp_path}"
    ):
        load("CIFAR10", tmp_path)


def test_a_changed_pickle_is_an_error_and_is_not_opened(tmp_path, monkeypatch):
    root = write_cifar(tmp_path, monkeypatch)
    changed = root / "cifar-10-batches-py" / "data_batch_2"
    changed.write_bytes(b"cos\nabort\n(tR.")  # would end this process
    with pytest.raises(DatasetError, match=rf"data file damaged: 1 (.|\n)*{changed} .its md5 should be"):
        load("CIFAR10", root)


def test_a_damaged_mat_file_is_an_error(tmp_path, monkeypatch):
    root = write_svhn(tmp_path, monkeypatch, {"test": 2})
    file = root / "test_32x32.mat"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=r"damaged: 1 (.|\n)*test_32x32.mat .its md5"):
        load("SVHN", root, "test")


def test_svhn_without_scipy_says_what_to_install(tmp_path, monkeypatch):
    root = write_svhn(tmp_path, monkeypatch, {"test": 2})
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DatasetError, match="svhn"):
        load("SVHN", root, "test")


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        (".gz", lambda content: content[:-20], "cannot be unpacked"),
        (".gz", lambda content: content[:40] + bytes(20) + content[60:], "cannot be unpacked"),
        (".gz", lambda content: gzip.decompress(content), "cannot be unpacked"),
        (".gz", lambda content: b"", "no IDX file of bytes with 3 dimensions"),
        ("", lambda content: content[:-20], "should have 12 x 28 x 28 values behind its head but has 9388"),
        ("", lambda content: content + b"x", "has 9409"),
        ("", lambda content: b"<html>not found</html>", "no IDX file of bytes with 3 dimensions"),
    ],
)
def test_a_damaged_idx_file_is_an_error_that_names_it(tmp_path, suffix, change, message):
    file = write_mnist(tmp_path, suffix=suffix) / f"train-images-idx3-ubyte{suffix}"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(
        DatasetError, match=rf"data file damaged(.|\n)*{file}: .*{message}(.|\n)*Get the files from"
    ):
        load("MNIST", tmp_path)


def test_labels_that_do_not_fit_the_images_are_an_error(tmp_path):
    write_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(11, np.uint8))
    with pytest.raises(DatasetError, match="12 images, 11 labels"):
        load("MNIST", tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(12, dtype=np.uint8))
    with pytest.raises(DatasetError, match="the label 11 of 10 classes"):
        load("MNIST", tmp_path)
