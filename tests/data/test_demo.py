import os
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from det_distill.data import demo
from det_distill.data.demo import (
    LabelledBox,
    Part,
    boxes_in_tile,
    cut_part,
    prepare_demo_tiles,
    read_voc_boxes,
    tile_starts,
)

with_photos = pytest.mark.skipif(
    find_spec("deepforest") is None, reason="the package deepforest is not installed"
)


def _write_photo(
    folder: Path, name: str, width: int, height: int, corners: list[tuple[int, int, int, int]]
) -> np.ndarray:
    """A photo whose red is the column / 4 and green the row / 4, and its boxes as VOC writes them."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width) // 4
    pixels[..., 1] = np.arange(height)[:, None] // 4
    Image.fromarray(pixels).save(folder / f"{name}.png")
    items = "".join(
        f"<object><name>Tree</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in corners
    )
    (folder / f"{name}.xml").write_text(f"<annotation>{items}</annotation>")
    return pixels


def _files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_tiles_are_spread_from_edge_to_edge():
    assert tile_starts(384, 384) == [0]
    assert tile_starts(500, 384) == [0]  # 500 / 384 = 1.3
    assert tile_starts(768, 384) == [0, 384]
    assert tile_starts(1000, 384) == [0, 308, 616]  # 2.6: three that overlap by 76
    assert tile_starts(900, 384) == [0, 516]  # 2.3: two with a gap of 132
    with pytest.raises(ValueError, match="383 pixels is too small"):
        tile_starts(383, 384)


def test_a_box_is_kept_from_forty_percent_visible_area_and_clipped():
    inside = LabelledBox("Tree", 110, 220, 120, 230)
    forty = LabelledBox("Tree", 94, 200, 104, 210)  # 4 of 10 columns lie right of x = 100
    thirty = LabelledBox("Tree", 93, 200, 103, 210)
    corner = LabelledBox("Tree", 193, 294, 203, 304)  # 7 of 10 columns, 6 of 10 rows: 42 % before (200, 300)
    corner_less = LabelledBox("Tree", 194, 294, 204, 304)  # 36 %
    outside = LabelledBox("Tree", 200, 200, 210, 210)
    boxes = [inside, forty, thirty, corner, corner_less, outside]
    assert boxes_in_tile(boxes, 100, 200, 100, 0.4) == [
        LabelledBox("Tree", 10, 20, 20, 30),
        LabelledBox("Tree", 0, 0, 4, 10),
        LabelledBox("Tree", 93, 94, 100, 100),
    ]
    assert outside not in boxes_in_tile(boxes, 100, 200, 100, 0.0)


def test_voc_corners_are_one_based_and_inclusive(tmp_path):
    _write_photo(tmp_path, "photo", 20, 20, [(1, 1, 20, 20), (3, 5, 3, 5)])
    assert read_voc_boxes(tmp_path / "photo.xml") == [
        LabelledBox("Tree", 0, 0, 20, 20),
        LabelledBox("Tree", 2, 4, 3, 5),
    ]


def test_a_photo_is_cut_into_tiles_with_the_right_pixels_and_boxes(tmp_path):
    # A band of 768 columns that begins at 100, and 384 rows: tiles at x = 100 and x = 484.
    # LabelledBox one lies at 0-based columns 474..513 (x0 474, x1 514): 10 of 40 columns left, 30 right of 484.
    pixels = _write_photo(
        tmp_path, "photo", 900, 384, [(475, 11, 514, 50), (101, 101, 140, 160), (61, 1, 120, 9)]
    )
    tiles, boxes = cut_part(tmp_path, Part("train", "photo", 100, 868, keep_empty=False), tmp_path / "out")
    assert (tiles, boxes) == (2, 2)  # the last box has 20 of 60 columns in the band
    listing = (tmp_path / "out/ImageSets/Main/train.txt").read_text().split()
    assert listing == ["train_0000_0100", "train_0000_0484"]
    assert read_voc_boxes(tmp_path / "out/Annotations/train_0000_0100.xml") == [
        LabelledBox("Tree", 0, 100, 40, 160)
    ]
    assert read_voc_boxes(tmp_path / "out/Annotations/train_0000_0484.xml") == [
        LabelledBox("Tree", 0, 10, 30, 50)
    ]
    tile = np.asarray(Image.open(tmp_path / "out/JPEGImages/train_0000_0484.jpg").convert("RGB")).astype(int)
    assert tile.shape == (384, 384, 3)
    assert np.abs(tile - pixels[:384, 484:868]).max() <= 8  # JPEG


@pytest.mark.parametrize("keep_empty, tiles", [(True, 2), (False, 1)])
def test_tiles_without_a_box_are_kept_only_where_asked(tmp_path, keep_empty, tiles):
    _write_photo(tmp_path, "photo", 768, 384, [(1, 1, 40, 40)])
    part = Part("test", "photo", 0, 768, keep_empty=keep_empty)
    assert cut_part(tmp_path, part, tmp_path / "out") == (tiles, 1)


@pytest.fixture
def small_photos(tmp_path, monkeypatch):
    """Two small photos in the place of the real ones; returns the folder to prepare the set in."""
    photos = tmp_path / "package" / "data"
    photos.mkdir(parents=True)
    _write_photo(photos, "near", 768, 384, [(1, 1, 40, 40), (501, 1, 540, 40)])
    _write_photo(photos, "far", 384, 384, [(1, 1, 40, 40)])
    parts = (
        Part("train", "near", 0, 384, False),
        Part("test", "near", 384, 768, True),
        Part("othersite", "far", 0, 384, True),
    )
    monkeypatch.setattr(demo, "PARTS", parts)
    monkeypatch.setattr(demo, "_photo_folder", lambda: photos)
    return tmp_path / "sets"


def test_the_set_is_made_once_and_always_the_same(small_photos, monkeypatch):
    folder = prepare_demo_tiles(small_photos / "a")
    assert folder == small_photos / "a" / "tree_tiles"
    assert _files(folder) == _files(prepare_demo_tiles(small_photos / "b"))
    assert (
        "Ben Weinstein" in (folder / "LICENSE").read_text() and "MIT" in (folder / "README.txt").read_text()
    )
    monkeypatch.setattr(demo, "cut_part", None)
    assert prepare_demo_tiles(small_photos / "a") == folder


def test_an_interrupted_preparation_is_not_taken_for_a_finished_one(small_photos, monkeypatch):
    cut = demo.cut_part
    with monkeypatch.context() as patch:
        patch.setattr(demo, "cut_part", lambda *a: (cut(*a), (_ for _ in ()).throw(KeyboardInterrupt)))
        with pytest.raises(KeyboardInterrupt):
            prepare_demo_tiles(small_photos)
    assert list(small_photos.iterdir()) == []
    (small_photos / ".tree_tiles-killed" / "tree_tiles").mkdir(parents=True)  # what kill -9 leaves
    assert (prepare_demo_tiles(small_photos) / "ImageSets/Main/othersite.txt").is_file()


def test_two_preparations_at_once_end_in_one_complete_set(small_photos, monkeypatch):
    both_cut = threading.Barrier(2, timeout=20)
    rename = os.rename
    monkeypatch.setattr(demo.os, "rename", lambda *a: (both_cut.wait(), rename(*a)))
    folders: list[Path] = []
    threads = [
        threading.Thread(target=lambda: folders.append(prepare_demo_tiles(small_photos))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [small_photos / "tree_tiles"] * 2
    assert list(small_photos.iterdir()) == [small_photos / "tree_tiles"]


def test_a_damaged_set_is_reported(small_photos):
    folder = prepare_demo_tiles(small_photos)
    next((folder / "JPEGImages").glob("test_*")).unlink()
    with pytest.raises(FileExistsError, match=r"split 'test' lacks files.*remove the folder"):
        prepare_demo_tiles(small_photos)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps deepforest"):
        prepare_demo_tiles(tmp_path)
    assert list(tmp_path.iterdir()) == []


@with_photos
def test_the_real_set_has_the_documented_tiles_and_train_and_test_share_no_pixel(tmp_path):
    folder = prepare_demo_tiles(tmp_path)
    counts, places = {}, {}
    for split in ("train", "test", "othersite"):
        names = (folder / f"ImageSets/Main/{split}.txt").read_text().split()
        boxes = [b for n in names for b in read_voc_boxes(folder / f"Annotations/{n}.xml")]
        counts[split] = (len(names), len(boxes))
        places[split] = [tuple(map(int, n.split("_")[1:])) for n in names]
        assert {b.label for b in boxes} == {"Tree"}
        assert all(0 <= b.x0 < b.x1 <= 384 and 0 <= b.y0 < b.y1 <= 384 for b in boxes)
        assert all(Image.open(folder / f"JPEGImages/{n}.jpg").size == (384, 384) for n in names)
    assert counts == {"train": (22, 294), "test": (12, 259), "othersite": (9, 283)}
    assert max(x for _, x in places["train"]) + 384 <= min(x for _, x in places["test"])
