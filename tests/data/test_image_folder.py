"""Folders of images, one per class: what is listed, and what is wrong with them."""

import logging

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from det_distill.config import get_cfg
from det_distill.data import DatasetError, check_datasets, register_from_config, register_images
from det_distill.data.image_folder import load_images
from tests.tiny import classifier_cfg, write_image_folder


@pytest.fixture
def root(tmp_path):
    return write_image_folder(tmp_path / "shapes", count=3)


def test_images_are_listed_class_by_class_with_the_number_of_their_class(root):
    dicts = load_images(root)
    assert [d["image_id"] for d in dicts[:4]] == [
        "disc/000.png",
        "disc/001.png",
        "disc/002.png",
        "square/000.png",
    ]
    assert [d["label"] for d in dicts] == [0, 0, 0, 1, 1, 1]
    assert dicts[4]["file_name"] == str(root / "square" / "001.png")


def test_classes_may_be_given_in_an_order_of_ones_own(root):
    assert [d["label"] for d in load_images(root, ["square", "disc"])] == [0, 0, 0, 1, 1, 1]
    assert load_images(root, ["square", "disc"])[0]["image_id"] == "square/000.png"


def test_folders_within_a_class_are_searched_and_other_files_passed_over(root):
    (root / "disc" / "more").mkdir()
    (root / "disc" / "000.png").rename(root / "disc" / "more" / "zero.PNG")
    (root / "disc" / "notes.txt").write_text("not an image")
    (root / "disc" / ".hidden.png").write_text("not one either")
    (root / ".cache").mkdir()
    (root / "README.txt").write_text("")
    ids = [d["image_id"] for d in load_images(root)]
    assert ids[:3] == ["disc/001.png", "disc/002.png", "disc/more/zero.PNG"] and len(ids) == 6


def test_the_registered_set_knows_its_classes_and_how_it_is_evaluated(root):
    assert register_images("shapes", root) == "shapes"
    metadata = MetadataCatalog.get("shapes")
    assert metadata.thing_classes == ["disc", "square"]
    assert (metadata.evaluator_type, metadata.dirname) == ("image_classification", str(root))
    assert DatasetCatalog.get("shapes") == load_images(root)


def test_the_metadata_follow_a_folder_that_appears_after_registration(tmp_path):
    register_images("later", tmp_path / "later")
    write_image_folder(tmp_path / "later", count=1)
    DatasetCatalog.get("later")
    assert MetadataCatalog.get("later").thing_classes == ["disc", "square"]


def test_a_config_registers_it_however_often(root):
    cfg = classifier_cfg()
    cfg.DATASETS.IMAGES.shapes = CfgNode({"ROOT": str(root), "CLASSES": ["square", "disc"]})
    register_from_config(cfg)
    register_from_config(cfg)
    assert MetadataCatalog.get("shapes").thing_classes == ["square", "disc"]
    assert len(DatasetCatalog.get("shapes")) == 6


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"CLASSES": ["a"]}, "needs ROOT"),
        ({"ROOT": "a", "SPLIT": "b"}, r"unknown keys \['SPLIT'\]"),
        ({"ROOT": "a", "CLASSES": ["cat", "cat"]}, r"\['cat'\] are listed more than once"),
        ({"ROOT": "a", "CLASSES": [1]}, "must be a list of class names"),
        ({"ROOT": "a", "QUERIES": ["b"]}, "QUERIES must be a text"),
        ({"ROOT": "a", "QUERIES": "a/query"}, "two folders side by side, neither within the other"),
        ({"ROOT": "a/gallery", "QUERIES": "a"}, "two folders side by side"),
        ({"ROOT": "a", "QUERIES": "a"}, "two folders side by side"),
    ],
)
def test_a_wrong_entry_is_an_error_that_names_it(entry, message):
    cfg = get_cfg()
    cfg.DATASETS.IMAGES.shapes = CfgNode(entry)
    with pytest.raises(ValueError, match=rf"shapes.*{message}"):
        register_from_config(cfg)


def test_a_folder_that_cannot_be_used_is_an_error_that_says_what_to_do(tmp_path, root):
    with pytest.raises(DatasetError, match="nowhere cannot be used(.|\n)*folder missing: 1 .check the path"):
        load_images(tmp_path / "nowhere")
    (tmp_path / "flat").mkdir()
    with pytest.raises(DatasetError, match="no class folder.*one folder of images per class"):
        load_images(tmp_path / "flat")
    (tmp_path / "flat" / "cat").mkdir()
    with pytest.raises(DatasetError, match="no image at all"):
        load_images(tmp_path / "flat")
    with pytest.raises(DatasetError, match="class folder missing(.|\n)*circle .there are: disc, square"):
        load_images(root, ["circle", "square"])


def test_what_is_left_out_is_one_warning(root, caplog):
    (root / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        dicts = load_images(root, ["empty", "square"])
    assert [d["label"] for d in dicts] == [1, 1, 1] and len(caplog.records) == 1
    text = caplog.text
    assert "class without image: 1" in text and "folder of no class: 1" in text and str(root / "disc") in text


def test_the_class_count_is_compared_with_the_model(root):
    register_images("shapes", root)
    cfg = classifier_cfg(classes=3)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("shapes",)
    message = (
        "'shapes' has 2 classes .disc, square. but the model is built for 3. Set MODEL.CLASSIFIER.NUM_CLASSES"
    )
    with pytest.raises(DatasetError, match=message):
        check_datasets(cfg, 3, classes_key="MODEL.CLASSIFIER.NUM_CLASSES")


def test_training_and_test_folders_with_other_classes_do_not_go_together(root, tmp_path):
    register_images("shapes", root)
    other = write_image_folder(tmp_path / "other")
    (other / "disc").rename(other / "ring")
    register_images("other", other)
    cfg = classifier_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("shapes",), ("other",)
    with pytest.raises(DatasetError, match="do not have the same classes in the same order"):
        check_datasets(cfg, 2, classes_key="MODEL.CLASSIFIER.NUM_CLASSES")
    check_datasets(cfg, 2, other_test_classes=True)  # identities that were not seen
    with pytest.raises(DatasetError, match="the model is built for 3"):
        check_datasets(cfg, 3, other_test_classes=True)
