"""ImageNet as folders: the order of its classes, and folders that are not sorted into classes."""

import sys

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from det_distill.config import get_cfg
from det_distill.data import DatasetError, register_from_config, register_images
from det_distill.data.image_folder import load_images
from det_distill.data.imagenet import imagenet_classes


@pytest.fixture
def whole(tmp_path):
    """All 1000 folders; the first and the last class have an image."""
    for synset in (classes := list(imagenet_classes())):
        (tmp_path / "val" / synset).mkdir(parents=True)
    for synset in (classes[0], classes[-1]):
        Image.new("RGB", (8, 8)).save(tmp_path / "val" / synset / "ILSVRC2012_val_00000001.JPEG")
    return tmp_path / "val"


def test_the_classes_are_the_1000_synsets_in_the_order_of_pretrained_networks():
    classes = imagenet_classes()
    assert len(classes) == 1000 and list(classes) == sorted(classes)
    assert next(iter(classes.items())) == ("n01440764", "tench, Tinca tinca")
    assert list(classes)[-1] == "n15075141" and list(classes).index("n02123045") == 281  # tabby


def test_a_config_names_the_1000_classes_with_one_word(whole):
    cfg = get_cfg()
    cfg.DATASETS.IMAGES.imagenet = CfgNode({"ROOT": str(whole), "CLASSES": "imagenet-1k"})
    register_from_config(cfg)
    assert [record["label"] for record in DatasetCatalog.get("imagenet")] == [0, 999]
    metadata = MetadataCatalog.get("imagenet")
    assert metadata.thing_classes[1] == "n01443537"
    assert metadata.class_descriptions[1] == "goldfish, Carassius auratus"


def test_any_other_word_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="a list of names or 'imagenet-1k', not 'imagenet'"):
        register_images("pets", tmp_path, "imagenet")
    for node, entry in (("IMAGES", {"ROOT": "a"}), ("VOC", {"ROOT": "a", "SPLIT": "b"})):
        cfg = get_cfg()
        cfg.DATASETS[node].pets = CfgNode({**entry, "CLASSES": "imagenet-1k" if node == "VOC" else "cat"})
        with pytest.raises(ValueError, match="CLASSES must be a list of class names"):
            register_from_config(cfg)


def test_without_timm_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(DatasetError, match=r"pip install det_distill\[timm\]"):
        register_images("pets", tmp_path, "imagenet-1k")


def test_some_of_the_synsets_are_a_list(whole):
    classes = ["n15075141", "n01440764"]
    assert [record["image_id"][:9] for record in load_images(whole, classes)] == classes


def test_a_missing_synset_is_an_error_that_tells_of_subsets(whole):
    (whole / "n01443537").rename(whole / "goldfish")
    with pytest.raises(
        DatasetError, match=r"(?s)missing: 1 .*n01443537 .*the 1000 synsets; to use some of them, list"
    ):
        load_images(whole, list(imagenet_classes()))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (
            "ILSVRC2012_val_00000001.JPEG",
            r"all lie in .*flat itself. .torchvision.datasets.ImageNet.ROOT, 'val'.*devkit",
        ),
        ("n01440764.tar", r"are still packed. .torchvision.datasets.ImageNet.ROOT, 'train'"),
    ],
)
@pytest.mark.parametrize("classes", [[], ["n01440764", "n01443537"]])
def test_images_that_are_not_in_folders_of_their_class_are_an_error_that_says_how_to_sort_them(
    tmp_path, file, message, classes
):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / file).touch()
    with pytest.raises(DatasetError, match=rf"(?s)no class folder.*{message}"):
        load_images(tmp_path / "flat", classes)
