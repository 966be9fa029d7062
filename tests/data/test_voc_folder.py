"""VOC folders: what the dicts hold, and every problem found at load time."""

import logging
import re
import time
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from voc_texts import voc_object, voc_xml

from det_distill.data import DatasetError, discover_classes, register_voc
from det_distill.data.voc import load_voc

CAT = voc_object("cat", 5, 6, 20, 25)


def boxes(dicts):
    return [tuple(entry["bbox"]) for record in dicts for entry in record["annotations"]]


def test_a_dict_is_detectron2s_standard_dict_with_the_first_pixel_at_zero(voc_root):
    root = voc_root({"a": voc_xml(voc_object("dog", 1, 1, 40, 30, difficult=1), CAT)})
    assert load_voc(root, "train") == [
        {
            "file_name": str(root / "JPEGImages" / "a.jpg"),
            "image_id": "a",
            "height": 30,
            "width": 40,
            "annotations": [
                {
                    "bbox": [0.0, 0.0, 40.0, 30.0],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": 1,
                    "iscrowd": 0,
                    "difficult": 1,
                },
                {
                    "bbox": [4.0, 5.0, 20.0, 25.0],
                    "bbox_mode": BoxMode.XYXY_ABS,
                    "category_id": 0,
                    "iscrowd": 0,
                    "difficult": 0,
                },
            ],
        }
    ]


def test_classes_are_discovered_over_all_files_so_that_splits_agree(voc_root):
    root = voc_root({"a": voc_xml(CAT), "b": voc_xml(voc_object("ant", 5, 6, 20, 25))}, split="a")
    assert discover_classes(root) == ("ant", "cat")
    assert load_voc(root, "train")[0]["annotations"][0]["category_id"] == 1


def test_given_classes_keep_their_order(voc_root):
    root = voc_root({"a": voc_xml(CAT)})
    assert load_voc(root, "train", ("dog", "cat"))[0]["annotations"][0]["category_id"] == 1


def test_difficult_objects_are_kept_or_skipped(voc_root):
    root = voc_root({"a": voc_xml(CAT, voc_object("cat", 1, 1, 9, 9, difficult=1))})
    assert len(boxes(load_voc(root, "train"))) == 2
    assert boxes(load_voc(root, "train", difficult="skip")) == [(4, 5, 20, 25)]


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png", ".PNG", ".bmp", ".tif", ".webp"])
def test_images_are_found_whatever_their_suffix(voc_root, suffix):
    root = voc_root({"a": voc_xml(CAT)}, suffix=suffix)
    assert load_voc(root, "train")[0]["file_name"] == str(root / "JPEGImages" / f"a{suffix}")


def test_a_name_may_hold_dots_blanks_and_folders(voc_root):
    root = voc_root({"a.v1": voc_xml(CAT), "photo 1": voc_xml(CAT)})
    for folder, text in (("Annotations", "x.xml"), ("JPEGImages", "x.png")):
        (root / folder / "night").mkdir()
        (root / folder / "night" / text).write_text(voc_xml(CAT))
    Image.new("L", (40, 30)).save(root / "JPEGImages" / "night" / "x.png")
    (root / "ImageSets" / "Main" / "train.txt").write_text("a.v1\nphoto 1\nnight/x\n")
    assert [record["image_id"] for record in load_voc(root, "train")] == ["a.v1", "photo 1", "night/x"]


def test_blank_lines_crlf_byte_order_mark_and_a_second_column_are_read(voc_root):
    root = voc_root(
        {"a": voc_xml(CAT), "b": voc_xml(CAT), "c": voc_xml()}, b"\xef\xbb\xbfa  1\r\n\r\nb -1\r\nc\t0\r\n"
    )
    assert [record["image_id"] for record in load_voc(root, "train")] == ["a", "b", "c"]


def test_an_image_listed_twice_is_used_once_and_reported(voc_root, caplog):
    root = voc_root({"a": voc_xml(CAT)}, "a\na\n")
    assert len(load_voc(root, "train")) == 1
    assert "image listed twice: 1" in caplog.text


@pytest.mark.parametrize(
    ("corners", "kept", "kind"),
    [
        ((5, 6, 5, 25), None, "degenerate box"),
        ((20, 6, 5, 25), None, "degenerate box"),
        ((41, 6, 60, 25), None, "box outside the image"),
        ((5, -20, 9, 0), None, "box outside the image"),
        ((-4, 6, 60, 25), (0, 5, 40, 25), "box partly outside the image"),
        (("nan", 6, 20, 25), None, "box that is not four finite numbers"),
        (("inf", 6, 20, 25), None, "box that is not four finite numbers"),
        (("", 6, 20, 25), None, "box that is not four finite numbers"),
        (("five", 6, 20, 25), None, "box that is not four finite numbers"),
    ],
)
def test_a_bad_box_is_left_out_or_clipped_and_reported(voc_root, caplog, corners, kept, kind):
    root = voc_root({"a": voc_xml(CAT, voc_object("cat", *corners))})
    assert boxes(load_voc(root, "train")) == [(4, 5, 20, 25)] + ([kept] if kept else [])
    assert f"{kind}: 1" in caplog.text
    assert "Annotations/a.xml (object 2, cat" in caplog.text


def test_half_a_pixel_over_the_edge_is_clipped_without_a_word(voc_root, caplog):
    root = voc_root({"a": voc_xml(voc_object("cat", 5, 6, 40.5, 25))})
    assert boxes(load_voc(root, "train")) == [(4, 5, 40, 25)]
    assert not caplog.records


def test_an_object_without_box_is_left_out_and_a_missing_difficult_means_no(voc_root, caplog):
    text = voc_xml("<object><name>cat</name></object>", CAT.replace("<difficult>0</difficult>", ""))
    dicts = load_voc(voc_root({"a": text}), "train")
    assert [entry["difficult"] for entry in dicts[0]["annotations"]] == [0]
    assert "box that is not four finite numbers: 1" in caplog.text


@pytest.mark.parametrize(("stated", "reported"), [(None, False), ((0, 0), False), ((99, 30), True)])
def test_the_size_comes_from_the_image_where_the_xml_has_none_or_another(voc_root, caplog, stated, reported):
    record = load_voc(voc_root({"a": voc_xml(CAT, size=stated)}), "train")[0]
    assert (record["width"], record["height"]) == (40, 30)
    assert ("image size differs: 1" in caplog.text) is reported


def rotate_by_exif(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(root / "JPEGImages" / "a.jpg", exif=exif)


def test_boxes_drawn_on_the_unturned_image_of_an_exif_rotation_are_an_error(voc_root):
    root = voc_root({"a": voc_xml(CAT, size=(40, 30))})
    rotate_by_exif(root)
    with pytest.raises(DatasetError, match="rotated by its EXIF tag"):
        load_voc(root, "train")


def test_an_exif_rotation_that_the_annotation_knows_is_fine(voc_root):
    root = voc_root({"a": voc_xml(CAT, size=(30, 40))})
    rotate_by_exif(root)
    assert (load_voc(root, "train")[0]["width"], load_voc(root, "train")[0]["height"]) == (30, 40)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


BREAKERS = {
    "image missing": lambda root: (root / "JPEGImages" / "b.jpg").unlink(),
    "image not readable": lambda root: cut(root / "JPEGImages" / "b.jpg"),
    "annotation file missing": lambda root: (root / "Annotations" / "b.xml").unlink(),
    "annotation file not readable": lambda root: (root / "Annotations" / "b.xml").write_text(
        "<annotation><a>"
    ),
}


@pytest.mark.parametrize("kind", BREAKERS)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(voc_root, kind):
    root = voc_root({name: voc_xml(CAT) for name in "abc"})
    BREAKERS[kind](root)
    with pytest.raises(DatasetError, match=rf"{kind}: 1 (.|\n)*/b\.(jpg|xml)"):
        load_voc(root, "train")


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xff\xd8\xff\xe0", b"GIF89a", b"\x89PNG\r\n\x1a\n"], ids=repr
)
def test_a_file_that_is_no_image_is_an_error(voc_root, content):
    root = voc_root({"a": voc_xml(CAT)})
    (root / "JPEGImages" / "a.jpg").write_bytes(content)
    with pytest.raises(DatasetError, match=r"image not readable: 1"):
        load_voc(root, "train")


def test_all_problems_are_found_in_one_pass(voc_root):
    root = voc_root({name: voc_xml(CAT) for name in "ab"} | {"c": voc_xml(voc_object("cow", 1, 1, 9, 9))})
    (root / "JPEGImages" / "a.jpg").unlink()
    (root / "Annotations" / "b.xml").write_text("")
    with pytest.raises(DatasetError) as error:
        load_voc(root, "train", ("cat",))
    for kind in ("image missing", "annotation file not readable", "unknown class"):
        assert f"{kind}: 1" in str(error.value)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY a{i} "{"&a;" if i == 0 else f"&a{i - 1};" * 10}">' for i in range(12))
    + "]><annotation><object><name>&a11;</name></object></annotation>"
)
EXTERNAL = (
    '<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
    "<annotation><object><name>&a;</name></object></annotation>"
)


@pytest.mark.parametrize("text", [BOMB, EXTERNAL], ids=["bomb", "external"])
def test_entities_are_refused_and_never_expanded(voc_root, text):
    root = voc_root({"a": voc_xml(CAT), "b": text})
    start = time.perf_counter()
    with pytest.raises(DatasetError, match=r"b\.xml \(entity declarations are not allowed"):
        load_voc(root, "train")
    assert time.perf_counter() - start < 1
    assert discover_classes(root) == ("cat",)


def test_an_unknown_class_is_an_error_and_so_is_an_object_without_name(voc_root):
    root = voc_root({"a": voc_xml(CAT)})
    with pytest.raises(DatasetError, match=r"unknown class: 1 (.|\n)*a\.xml \(object 1, cat\)"):
        load_voc(root, "train", ("dog",))
    root = voc_root({"a": voc_xml(CAT.replace("cat", " "))}, name="other")
    with pytest.raises(DatasetError, match="has no <name>"):
        load_voc(root, "train")


def test_a_wrong_root_and_a_wrong_split_say_what_is_expected(voc_root, tmp_path):
    with pytest.raises(DatasetError, match=r"folder missing: 1 (.|\n)*nowhere"):
        load_voc(tmp_path / "nowhere", "train")
    root = voc_root({"a": voc_xml(CAT)})
    with pytest.raises(DatasetError, match="there are: train"):
        load_voc(root, "val")


@pytest.mark.parametrize("split", ["", " \r\n\n"])
def test_an_empty_split_is_an_error(voc_root, split):
    with pytest.raises(DatasetError, match="empty split"):
        load_voc(voc_root({"a": voc_xml(CAT)}, split), "train")


def test_a_split_without_any_usable_box_is_an_error_but_a_background_image_is_not(voc_root):
    with pytest.raises(DatasetError, match="no annotation at all"):
        load_voc(voc_root({"a": voc_xml(), "b": voc_xml(voc_object("cat", 9, 9, 9, 9))}), "train")
    assert len(load_voc(voc_root({"a": voc_xml(), "b": voc_xml(CAT)}), "train")) == 2


def test_a_message_shows_ten_files_and_the_count(voc_root):
    root = voc_root({f"i{number:02}": voc_xml(CAT) for number in range(12)})
    for path in (root / "JPEGImages").iterdir():
        path.unlink()
    with pytest.raises(DatasetError) as error:
        load_voc(root, "train")
    assert "image missing: 12" in str(error.value)
    assert len(re.findall(r"/i\d\d\.jpg", str(error.value))) == 10
    assert "... and 2 more" in str(error.value)


def test_everything_left_out_is_one_warning(voc_root, caplog):
    bad = [voc_object("cat", 9, 9, 9, 9), voc_object("cat", 50, 50, 60, 60), voc_object("cat", -5, 1, 9, 9)]
    load_voc(voc_root({"a": voc_xml(*bad), "b": voc_xml(*bad)}), "train")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_broken_file_outside_the_split_is_only_a_warning(voc_root, caplog):
    root = voc_root({"a": voc_xml(CAT), "b": "<annotation>"}, "a")
    assert len(load_voc(root, "train")) == 1
    assert "annotation file outside the split not readable: 1" in caplog.text


def test_registration_fills_the_metadata_before_anything_is_loaded(voc_root):
    root = voc_root({"a": voc_xml(CAT)})
    register_voc("pets", root, "train")
    metadata = MetadataCatalog.get("pets")
    assert (metadata.thing_classes, metadata.dirname, metadata.split) == (["cat"], str(root), "train")
    assert metadata.evaluator_type == "det_distill"


def test_a_dataset_that_appears_after_registration_gets_its_classes_when_loaded(voc_root, tmp_path):
    register_voc("pets", tmp_path / "voc", "train")
    voc_root({"a": voc_xml(CAT)})
    assert len(DatasetCatalog.get("pets")) == 1
    assert MetadataCatalog.get("pets").thing_classes == ["cat"]


def test_a_dataset_is_read_once_and_its_dicts_may_be_changed(voc_root):
    root = voc_root({"a": voc_xml(CAT)})
    register_voc("pets", root, "train")
    DatasetCatalog.get("pets")[0]["annotations"].clear()
    (root / "Annotations" / "a.xml").unlink()
    assert boxes(DatasetCatalog.get("pets")) == [(4, 5, 20, 25)]
