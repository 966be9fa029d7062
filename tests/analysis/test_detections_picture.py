"""The picture of detections: which boxes count as found, and what is drawn."""

import json

import numpy as np
import pytest
from PIL import Image

from det_distill.analysis.detections_picture import Column, Photo, draw_detections, hits, read_detections


def photo(boxes, classes=None, height=60, width=80):
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    classes = np.zeros(len(boxes), dtype=np.int64) if classes is None else np.array(classes)
    return Photo(np.full((height, width, 3), 90, dtype=np.uint8), boxes, classes)


def found(*rows):
    return np.array(rows, dtype=np.float64).reshape(-1, 6)


def test_a_box_is_right_from_an_overlap_of_one_half_on():
    one = photo([(0, 0, 10, 10)])
    assert hits(one, found((0, 0, 10, 20, 0.9, 0))).tolist() == [True]  # 100 / 200
    assert hits(one, found((0, 0, 10, 21, 0.9, 0))).tolist() == [False]  # 100 / 210


def test_the_second_box_on_an_object_is_wrong_whatever_the_order():
    one = photo([(0, 0, 10, 10)])
    assert hits(one, found((0, 0, 10, 10, 0.6, 0), (0, 0, 10, 11, 0.8, 0))).tolist() == [False, True]


def test_a_box_of_another_class_is_wrong():
    one = photo([(0, 0, 10, 10)], classes=[1])
    assert hits(one, found((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.5, 1))).tolist() == [False, True]


def test_nothing_to_find_and_nothing_found_are_fine():
    assert hits(photo([]), found((0, 0, 5, 5, 0.9, 0))).tolist() == [False]
    assert hits(photo([(0, 0, 5, 5)]), found()).tolist() == []


def test_recorded_boxes_are_read_for_the_wanted_photos_in_their_order(tmp_path):
    rows = [
        {"image_id": "b", "category_id": 2, "bbox": [1, 2, 10, 20], "score": 0.5},
        {"image_id": "x", "category_id": 0, "bbox": [0, 0, 1, 1], "score": 0.9},
    ]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    first, second = read_detections(tmp_path / "r.json", [{"image_id": "a"}, {"image_id": "b"}])
    assert first.shape == (0, 6)
    assert second.tolist() == [[1, 2, 11, 22, 0.5, 2]]
    with pytest.raises(FileNotFoundError, match="det-distill eval"):
        read_detections(tmp_path / "none.json", [])


def colours(path):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    right = (red < 90) & (green > 180) & (blue > 200)
    wrong = (red > 200) & (green < 110) & (blue < 110)
    return [int(mask[: int(len(pixels) * 0.8)].sum()) for mask in (right, wrong)]


def test_right_and_wrong_boxes_have_their_colours_and_weak_ones_are_not_drawn(tmp_path):
    one = photo([(10, 10, 50, 50)])
    right, wrong = (10, 10, 50, 50, 0.9, 0), (60, 5, 78, 25, 0.7, 0)

    def drawn(*rows, threshold=0.5):
        return colours(
            draw_detections([one], [Column("x", [found(*rows)])], tmp_path / "p.png", threshold=threshold)
        )

    assert drawn() == [0, 0]
    assert drawn(right)[0] > 100 and drawn(right)[1] == 0
    assert drawn(wrong)[0] == 0 and drawn(wrong)[1] > 100
    assert drawn(right, wrong, threshold=0.95) == [0, 0]


def test_photos_of_unequal_shapes_and_several_classes_fit_in_one_picture(tmp_path):
    photos = [photo([(0, 0, 20, 20)], classes=[1]), photo([], height=120, width=60)]
    columns = [Column("a", [found((0, 0, 20, 20, 0.9, 1)), found()]), Column("b", [found(), found()])]
    path = draw_detections(photos, columns, tmp_path / "sub" / "p.png", class_names=["cat", "dog"])
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > picture.height / 2


def test_a_column_that_lacks_a_photo_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="one array of boxes per photo"):
        draw_detections([photo([])], [Column("a", [])], tmp_path / "p.png")
