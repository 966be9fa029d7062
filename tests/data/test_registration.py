"""Names: from a config, registered once, never over another dataset."""

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from voc_texts import voc_object, voc_xml

from det_distill.data import register_coco, register_from_config, register_voc
from det_distill.data.catalog import resolve_path


def config(voc=None, coco=None):
    cfg = get_cfg()
    cfg.DATASETS.VOC = CfgNode(voc or {}, new_allowed=True)
    cfg.DATASETS.COCO = CfgNode(coco or {}, new_allowed=True)
    return cfg


@pytest.fixture
def root(voc_root):
    return voc_root({"a": voc_xml(voc_object("cat", 5, 6, 20, 25)), "b": voc_xml()})


def test_a_config_registers_its_datasets_however_often(root, coco_files):
    json, images = coco_files([{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}])
    voc = {"pets": {"ROOT": str(root), "SPLIT": "train", "CLASSES": ["cat"], "DIFFICULT": "skip"}}
    cfg = config(voc, {"more_pets": {"JSON": str(json), "IMAGES": str(images)}})
    register_from_config(cfg)
    register_from_config(cfg)
    assert len(DatasetCatalog.get("pets")) == len(DatasetCatalog.get("more_pets")) == 2


def test_a_config_without_the_two_mappings_is_fine():
    register_from_config(get_cfg())


def test_the_same_name_for_something_else_is_an_error_that_shows_both(root):
    register_voc("pets", root, "train")
    with pytest.raises(ValueError, match=r"'pets' is already registered for something else(.|\n)*skip"):
        register_voc("pets", root, "train", difficult="skip")
    with pytest.raises(ValueError, match="already registered for something else"):
        register_coco("pets", "a.json", "images")


def test_a_built_in_name_cannot_be_taken(root):
    with pytest.raises(ValueError, match="'voc_2007_test' is already registered by detectron2"):
        register_voc("voc_2007_test", root, "train")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"ROOT": "a", "SPLIT": "b", "CLASSS": []},
            r"unknown keys \['CLASSS'\].*ROOT, SPLIT, CLASSES, DIFFICULT",
        ),
        ({"ROOT": "a"}, "needs SPLIT"),
        ({"ROOT": "a", "SPLIT": 2012}, "SPLIT must be a text, not 2012"),
        ({"ROOT": "a", "SPLIT": "b", "CLASSES": "cat"}, "CLASSES must be a list"),
        ({"ROOT": "a", "SPLIT": "b", "CLASSES": ["cat", False]}, "Quote names"),
        ({"ROOT": "a", "SPLIT": "b", "CLASSES": ["cat", "cat"]}, r"\['cat'\] are listed more than once"),
        ({"ROOT": "a", "SPLIT": "b", "DIFFICULT": "ignore"}, "difficult must be one of"),
        ("voc2012", "must be a mapping with the keys ROOT"),
    ],
)
def test_a_wrong_entry_is_an_error_that_names_it(entry, message):
    with pytest.raises(ValueError, match=rf"pets.*{message}"):
        register_from_config(config({"pets": entry}))


def test_a_relative_root_is_looked_up_here_then_in_detectron2s_folder(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "near").mkdir(parents=True)
    (there / "near").mkdir(parents=True)
    (there / "far").mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(there))
    assert resolve_path("near") == here / "near"
    assert resolve_path("far") == there / "far"
    assert resolve_path("nowhere") == here / "nowhere"
    assert resolve_path(there / "far") == there / "far"
