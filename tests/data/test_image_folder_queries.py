"""Folders of images with a second folder of queries: roles, classes, and what is wrong with them."""

import logging

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from det_distill.data import DatasetError, register_from_config, register_images
from det_distill.data.image_folder import load_images
from tests.tiny import classifier_cfg, write_image_folder


@pytest.fixture
def gallery(tmp_path):
    return write_image_folder(tmp_path / "gallery", count=2)


@pytest.fixture
def queries(tmp_path):
    return write_image_folder(tmp_path / "queries", count=1)


@pytest.fixture
def forgotten():
    known = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_the_gallery_comes_first_and_equal_names_in_both_folders_stay_two_images(gallery, queries):
    dicts = load_images(gallery, (), queries)
    assert [(d["image_id"], d["role"], d["label"]) for d in dicts] == [
        ("gallery/disc/000.png", "gallery", 0),
        ("gallery/disc/001.png", "gallery", 0),
        ("gallery/square/000.png", "gallery", 1),
        ("gallery/square/001.png", "gallery", 1),
        ("query/disc/000.png", "query", 0),
        ("query/square/000.png", "query", 1),
    ]
    assert dicts[4]["file_name"] == str(queries / "disc" / "000.png")


def test_without_queries_no_image_has_a_role(gallery):
    assert all(set(d) == {"file_name", "image_id", "label"} for d in load_images(gallery))


def test_the_classes_are_those_of_both_folders_and_queries_that_find_nothing_are_told(
    gallery, queries, caplog
):
    (queries / "square").rename(queries / "circle")
    with caplog.at_level(logging.WARNING):
        dicts = load_images(gallery, (), queries)
    # circle, disc, square
    assert [d["label"] for d in dicts] == [1, 1, 2, 2, 0, 1]
    (record,) = caplog.records
    assert "1 queries of 1 classes have nothing to find" in record.getMessage()
    assert f"the gallery {gallery} has no image of circle" in record.getMessage()


def test_a_gallery_may_hold_what_nobody_asks_for(gallery, queries, caplog):
    (queries / "disc" / "000.png").unlink()
    (queries / "disc").rmdir()
    with caplog.at_level(logging.WARNING):
        assert [d["label"] for d in load_images(gallery, (), queries)] == [0, 0, 1, 1, 1]
    assert not caplog.records


def test_given_classes_number_both_folders_and_leave_the_others_out(gallery, queries, caplog):
    (queries / "circle").mkdir()
    with caplog.at_level(logging.WARNING):
        dicts = load_images(gallery, ["square"], queries)
    assert [(d["label"], d["role"]) for d in dicts] == [(0, "gallery")] * 2 + [(0, "query")]
    left_out = [gallery / "disc", queries / "circle", queries / "disc"]
    assert "folder of no class: 3" in caplog.text and all(str(folder) in caplog.text for folder in left_out)


def test_a_folder_of_queries_that_cannot_be_used_is_an_error_that_names_it(gallery, queries, tmp_path):
    nowhere, flat = tmp_path / "nowhere", tmp_path / "flat"
    with pytest.raises(
        DatasetError, match=f"with the queries {nowhere}(.|\n)*folder missing: 1(.|\n)*{nowhere}"
    ):
        load_images(gallery, (), nowhere)
    flat.mkdir()
    with pytest.raises(DatasetError, match=f"no class folder: 1(.|\n)*{flat}"):
        load_images(gallery, (), flat)
    (flat / "disc").mkdir()
    with pytest.raises(DatasetError, match=f"no image at all: 1(.|\n)*{flat}"):
        load_images(gallery, (), flat)
    with pytest.raises(DatasetError, match="class folder missing: 1(.|\n)*circle .there are: disc, square"):
        load_images(gallery, ["circle", "disc"], queries)


def test_a_config_registers_both_folders_which_are_looked_up_where_data_sets_are(
    gallery, queries, tmp_path, monkeypatch, forgotten
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cfg = classifier_cfg()
    cfg.DATASETS.IMAGES.parted = CfgNode({"ROOT": "gallery", "QUERIES": "queries"})
    register_from_config(cfg)
    register_from_config(cfg)
    assert DatasetCatalog.get("parted") == load_images(gallery, (), queries)
    assert MetadataCatalog.get("parted").thing_classes == ["disc", "square"]
    with pytest.raises(ValueError, match="'parted' is already registered for something else"):
        register_images("parted", "gallery")
