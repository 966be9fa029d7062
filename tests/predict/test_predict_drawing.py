"""Boxes, labels and captions: where they stand, and in which colours."""

import numpy as np
import pytest

from det_distill.predict.drawing import COLOURS, colour_of, draw_classes, draw_detections, lacking


def detection(box, class_id=0, name="cat", score=0.9):
    return {"class": name, "class_id": class_id, "score": score, "box": box}


def coloured(picture, class_id=0):
    """Rows and columns of the pixels in a class's colour."""
    return np.argwhere((np.asarray(picture) == colour_of(class_id)).all(axis=2))


def canvas(height=400, width=500):
    return np.full((height, width, 3), 128, np.uint8)


def test_a_box_is_drawn_where_it_is():
    found = coloured(draw_detections(canvas(), [detection([100, 200, 150, 260], name="")]))
    below_label = found[found[:, 0] >= 200]
    assert below_label.min(axis=0).tolist() == [200, 100]
    assert below_label.max(axis=0).tolist() == [259, 149]


def test_without_detections_the_picture_is_the_photo_itself():
    photo = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(draw_detections(photo, [])), photo)


@pytest.mark.parametrize("box", [[0, 0, 40, 30], [480, 380, 500, 400], [-9, -9, 600, 500], [490, 0, 500, 5]])
def test_a_label_stays_in_the_picture(box):
    picture = draw_detections(canvas(), [detection(box, name="elephant")])
    black_in_label = len(coloured(picture))
    assert picture.size == (500, 400)
    alone = len(coloured(draw_detections(canvas(), [detection(box, name="")])))
    assert black_in_label > alone + 300  # a label of this length covers more; cut off, it would not


def test_a_name_too_long_for_the_picture_is_shortened_and_one_the_font_lacks_becomes_a_number():
    long = draw_detections(canvas(), [detection([10, 100, 60, 160], name="m" * 200)])
    assert coloured(long)[:, 1].max() < 500
    lacking = draw_detections(canvas(), [detection([10, 100, 60, 160], 2, name="\U00020000")])
    numbered = draw_detections(canvas(), [detection([10, 100, 60, 160], 2, name="class 2")])
    assert np.array_equal(np.asarray(lacking), np.asarray(numbered))


def test_only_the_letters_that_the_font_lacks_are_replaced():
    pictures = [
        np.asarray(draw_detections(canvas(), [detection([10, 100, 60, 160], 1, name=name)]))
        for name in ("ü \U00020000 <b>", "ü ? <b>", "class 1")
    ]
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])
    assert lacking(["ü \U00020000", "\U00020000 b", "\U00020001"]) == "\U00020000\U00020001"


def test_labels_keep_off_each_other():
    boxes = [detection([100, 100, 300, 300], class_id=i, score=0.9 - i / 10) for i in range(4)]
    picture = draw_detections(canvas(), boxes)
    letters = draw_detections(canvas(), boxes[:1])
    area = len(coloured(letters)) - len(
        coloured(draw_detections(canvas(), [detection([100, 100, 300, 300], name="")]))
    )
    for class_id in range(1, 4):
        assert len(coloured(picture, class_id)) > area


@pytest.mark.parametrize(
    ("size", "expected"), [((32, 32), (320, 320)), ((240, 320), (480, 640)), ((20, 1000), (20, 1000))]
)
def test_a_small_picture_is_enlarged_by_a_whole_factor_and_its_boxes_with_it(size, expected):
    box = [size[1] / 4, size[0] / 4, size[1] / 2, size[0] / 2]
    picture = draw_detections(canvas(*size), [detection(box, name="")])
    assert picture.size == expected[::-1]


def test_lines_grow_with_the_picture():
    def across(side):
        box = [side / 4, side / 4, side / 2, side / 2]
        picture = np.asarray(draw_detections(canvas(side, side), [detection(box, name="")]))
        row = (picture[int(side * 0.4)] == colour_of(0)).all(axis=1)
        return int(row[: side // 3].sum())

    assert (across(400), across(1500), across(3000)) == (2, 5, 10)


def test_a_class_has_always_one_colour_and_the_first_seven_differ_in_brightness_or_hue():
    assert [colour_of(i) for i in range(7)] == [colour_of(i + 7) for i in range(7)]
    assert len(set(COLOURS)) == 7
    assert colour_of(1) == (0x56, 0xB4, 0xE9)


def test_the_caption_of_a_classifier_has_a_bar_for_each_class_as_long_as_it_is_probable():
    classes = [
        {"class": n, "class_id": i, "probability": p} for i, (n, p) in enumerate([("a", 0.75), ("b", 0.25)])
    ]
    picture = draw_classes(canvas(), classes)
    assert picture.width == 500 and picture.height > 400 + 2 * 12
    bars = (np.asarray(picture)[400:] == (0x56, 0xB4, 0xE9)).all(axis=2)
    longest = sorted({int(np.flatnonzero(row)[-1]) for row in bars if row.any()})
    assert longest == [1 + round(496 * 0.25), 1 + round(496 * 0.75)]
    assert np.array_equal(np.asarray(picture)[:400], canvas())
