"""Data set files that grow, draw in other files, or call programs: refused with the file's name, before training."""

import json
import time

import numpy as np
import pytest
from detectron2.data import build as detectron2_build
from detectron2.data.datasets.pascal_voc import load_voc_instances
from hostile import Bomb, pickle_file, text_file

from det_distill.config import get_cfg
from det_distill.data.coco import load_coco
from det_distill.data.problems import DatasetError
from det_distill.data.voc import load_voc
from det_distill.files import FileError
from tests.tiny import write_voc

BOMB = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol"}">' for i in range(10))
HOSTILE = {
    "billion laughs": f"<!DOCTYPE a [{BOMB}]><annotation><object><name>&l9;</name></object></annotation>",
    "quadratic": f'<!DOCTYPE a [<!ENTITY x "{"x" * 50_000}">]><annotation>{"&x;" * 50_000}</annotation>',
    "another file": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><folder>&x;</folder></annotation>',
    "parameter entity": '<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x.dtd"> %x;]><annotation/>',
}


@pytest.fixture
def root(tmp_path):
    """A folder in VOC layout."""
    return write_voc(tmp_path / "voc", 2)


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_annotation_file_with_entities_is_refused(root, kind):
    text_file(root / "Annotations" / "im000.xml", HOSTILE[kind])
    start = time.perf_counter()
    with pytest.raises(DatasetError, match=r"im000\.xml \(entity declarations are not allowed"):
        load_voc(root, "all")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("kind", HOSTILE)
def test_detectron2s_own_voc_data_sets_are_read_without_entities_too(root, kind):
    get_cfg()
    assert len(load_voc_instances(str(root), "all", ("disc", "square"))) == 2
    text_file(root / "Annotations" / "im001.xml", HOSTILE[kind])
    with pytest.raises(ValueError, match=r"im001\.xml: entity declarations are not allowed"):
        load_voc_instances(str(root), "all", ("disc", "square"))


def test_an_annotation_file_nested_without_end_is_no_harm(root):
    text_file(root / "Annotations" / "im000.xml", "<a>" * 100_000 + "</a>" * 100_000)
    assert [len(record["annotations"]) for record in load_voc(root, "all", ("disc", "square"))] == [0, 2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x80\x02}q\x00.",
        b"[" * 1_000_000,
        b'{"images": ' * 100_000,
        b"\xff\xfe",
        b"9" * 10_000,
        b'"a"',
    ],
    ids=["empty", "cut", "a pickle", "deep lists", "deep tables", "no text", "a giant number", "a text"],
)
def test_a_coco_file_that_is_no_json_or_too_deep_is_refused(tmp_path, content):
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"json file not readable.*\n.*c\.json"):
        load_coco(tmp_path / "c.json", tmp_path, "hostile_coco")


def test_proposals_are_unpickled_safely(tmp_path):
    """``DATASETS.PROPOSAL_FILES_TRAIN`` of a config names pickles, which detectron2 reads itself."""
    get_cfg()
    dicts = [{"image_id": 7}]
    file = pickle_file(tmp_path / "p.pkl", {"ids": [7], "boxes": [Bomb(tmp_path / "it_ran")]})
    with pytest.raises(FileError, match=r"p\.pkl is refused: reading it would call posix\.system"):
        detectron2_build.load_proposals_into_dataset(dicts, str(file))
    assert not (tmp_path / "it_ran").exists()
    proposals = {
        "ids": [7],
        "boxes": [np.eye(2, 4)],
        "objectness_logits": [np.array([1.0, 2.0])],
        "bbox_mode": 0,
    }
    (read,) = detectron2_build.load_proposals_into_dataset(dicts, str(pickle_file(file, proposals)))
    assert read["proposal_boxes"].tolist() == np.eye(2, 4)[::-1].tolist()


def test_a_coco_file_with_odd_values_is_refused_without_a_traceback_from_inside(tmp_path):
    for broken in ({"images": 1}, {"images": [3], "annotations": ["x"], "categories": [None]}):
        (tmp_path / "c.json").write_text(json.dumps(broken))
        with pytest.raises(DatasetError):
            load_coco(tmp_path / "c.json", tmp_path, "hostile_coco")
