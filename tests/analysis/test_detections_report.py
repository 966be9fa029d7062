"""The report on detections: where boxes come from, its numbers, its photos, and that names stay names."""

import base64
import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from det_distill.analysis.detections import Found, Source, measure
from det_distill.analysis.detections.charts import ticks
from det_distill.analysis.detections.findings import findings
from det_distill.analysis.detections.numbers import summary, write_csv
from det_distill.analysis.detections.page import page as render
from det_distill.analysis.detections.photos import detector_panel, differences, jpeg_url, truth_panel
from det_distill.evaluation.columns import Detections, GroundTruth
from det_distill.evaluation.cost import ModelCost

CLASSES = ("<b>disc</b>", "square & 'co'")
A, B, LOOSE = (0, 0, 20, 20), (40, 40, 60, 60), (0, 0, 40, 40)
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta"}


def detections(*rows):
    """Rows (image, category, score, box)."""
    columns = [np.array([row[i] for row in rows]) for i in range(4)]
    return Detections(
        columns[0].astype(np.int64),
        columns[1].astype(np.int64),
        columns[3].astype(float).reshape(-1, 4),
        columns[2].astype(float),
    )


def truth(*rows, images=3):
    """Rows (image, category, box, difficult)."""
    box = np.array([row[2] for row in rows], dtype=float).reshape(-1, 4)
    return GroundTruth(
        image=np.array([row[0] for row in rows], dtype=np.int64),
        category=np.array([row[1] for row in rows], dtype=np.int64),
        box=box,
        area=(box[:, 2:] - box[:, :2]).prod(axis=1),
        crowd=np.zeros(len(rows), dtype=bool),
        difficult=np.array([row[3] for row in rows], dtype=bool),
        sizes=np.full((images, 2), (80, 64)),
    )


TRUTH = truth((0, 0, A, 0), (0, 1, B, 0), (1, 0, A, 0), (1, 1, B, 1))
TEACHER = detections((0, 0, 0.9, A), (0, 1, 0.8, B), (1, 0, 0.7, A), (1, 1, 0.6, B))
STUDENT = detections((0, 0, 0.9, A), (0, 1, 0.8, LOOSE), (1, 0, 0.3, A), (2, 1, 0.9, A))
COST = ModelCost(4_000_000, 2.5, 10.0, 64, 80, 1, "cpu")
SMALLER = ModelCost(1_000_000, 0.5, 25.0, 64, 80, 1, "cpu")


def measured(names=("big", "small"), costs=(COST, SMALLER), **options):
    sources = [Source(names[0], True, "c", "w"), Source(names[1], False, "c", "w")]
    found = [Found(s, d, c, "<w>.pth") for s, d, c in zip(sources, (TEACHER, STUDENT), costs, strict=True)]
    return measure(found, TRUTH, 2, **options)


@pytest.fixture
def records(tmp_path):
    names = ["<i>0.jpg", "1.jpg", "2.jpg"]
    for name in names:
        Image.new("RGB", (80, 64), (90, 120, 150)).save(tmp_path / name)
    return [{"file_name": str(tmp_path / name), "image_id": i} for i, name in enumerate(names)]


class Tree(HTMLParser):
    """The elements of a page: what is open is closed, and which attributes there are."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.attributes, self.text = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_numbers_of_a_detector_are_those_of_both_rules():
    teacher, student = measured()
    assert teacher.table["voc/AP50"] == teacher.table["coco/AP50"] == teacher.table["voc/AP"] == 100
    # Class 0: A on image 0 before A on image 1, all right; class 1 (VOC): nothing right.
    assert student.class_table(0)["voc/AP50"] == 100 and student.class_table(1)["voc/AP50"] == 0
    assert student.table["voc/AP50"] == 50
    assert [teacher.objects(c) for c in (0, 1)] == [2, 1]


def test_objects_marked_difficult_are_told_apart_wherever_objects_are_counted(records, tmp_path):
    for counted in (False, True):
        both = measured(count_difficult=counted)
        text = " ".join(
            " ".join(Tree(render(both, records, CLASSES, "d", count_difficult=counted)).text).split()
        )
        assert "3 images, 4 objects (3 + 1 difficult) of 2 classes." in text
        assert "Small 4 objects (3 + 1 difficult)" in text and "Large 0 objects" in text
        assert f"{CLASSES[0]} 2 " in text and f"{CLASSES[1]} 1 + 1 difficult " in text
        assert ("1 object, without 1 difficult" in text) is not counted
        rows = list(csv.DictReader(write_csv(both, CLASSES, tmp_path / "x.csv").open()))
        assert [(r["objects"], r["difficult"]) for r in rows[:3]] == [("4", "1"), ("2", "0"), ("2", "1")]
        assert (summary(both, CLASSES, "d")["objects"], summary(both, CLASSES, "d")["difficult"]) == (4, 1)


def test_the_threshold_says_what_is_found_missed_and_wrong_and_leaves_ap_alone():
    student = measured(threshold=0.5)[1]
    assert (student.operation().found, student.operation().missed, student.operation().wrong) == (1, 2, 2)
    low = measured(threshold=0.2)[1]
    assert (low.operation().found, low.operation().missed, low.operation().wrong) == (2, 1, 2)
    assert low.table == pytest.approx(student.table, nan_ok=True)
    assert low.operation(0).precision == 1 and low.operation(1).recall == 0


def test_a_class_without_objects_has_no_curve_and_no_part_in_the_mean():
    found = [Found(Source(n, n == "t"), TEACHER, None, "") for n in "ts"]
    one = measure(found, truth((0, 0, A, 0)), 2)[0]
    assert np.isnan(one.curve(1)).all() and one.curve() == pytest.approx(one.curve(0))


def test_images_differ_by_the_boxes_that_only_one_of_two_draws():
    assert list(differences(TEACHER, STUDENT, 3, 0.5)) == [2, 2, 1]
    assert list(differences(TEACHER, STUDENT, 3, 0.2)) == [2, 1, 1]
    assert not differences(TEACHER, TEACHER, 3, 0).any()
    twice = detections((0, 0, 0.9, A), (0, 0, 0.8, A))
    assert list(differences(TEACHER, twice, 3, 0.85)) == [0, 0, 0]
    assert list(differences(twice, detections((0, 0, 0.9, A)), 3, 0.5)) == [1, 0, 0]
    assert list(differences(detections(), detections(), 2, 0.5)) == [0, 0]


def test_the_boxes_on_a_photo_say_what_they_are():
    teacher, student = measured()
    panel = truth_panel(teacher, 1, CLASSES)
    assert [b.kind for b in panel.boxes] == [
        "object",
        "uncounted",
    ] and panel.caption == "1 object, 1 not counted"
    panel = detector_panel(student, 0, CLASSES)
    assert [b.kind for b in panel.boxes] == ["right", "wrong", "missed"]
    assert panel.caption == "1 found, 1 missed, 1 wrong"
    assert panel.boxes[1].title == "square & 'co', score 0.80: both: the wrong class, and the box fits badly"
    assert (panel.boxes[1].x, panel.boxes[1].width) == (0, 40)
    assert [b.kind for b in detector_panel(teacher, 1, CLASSES).boxes] == ["right", "uncounted"]


def test_photos_are_embedded_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (600, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    head, _, body = jpeg_url({"file_name": str(tmp_path / "x.png")}, side=300).partition(",")
    picture = Image.open(io.BytesIO(base64.b64decode(body)))
    assert head == "data:image/jpeg;base64" and picture.format == "JPEG" and picture.size == (300, 200)


def test_whatever_things_are_called_the_page_is_well_formed_and_they_are_text(records):
    names = ("<script>alert(1)</script>", 'small" onload="x')
    text = render(measured(names), records, CLASSES, "data</title>{{ 7*7 }}")
    tree = Tree(text)
    assert tree.elements.count("script") == 1 and "b" not in tree.elements and "i" not in tree.elements
    assert not [a for a in tree.attributes if a[1].startswith("on")]
    written = " ".join(tree.text)
    assert all(name in written for name in (*CLASSES, *names, "<i>0.jpg", "<w>.pth", "{{ 7*7 }}"))


def test_the_page_asks_for_nothing_outside_itself(records):
    tree = Tree(render(measured(), records, CLASSES, "data"))
    links = [value for _, key, value in tree.attributes if key in ("src", "href", "srcset", "action", "data")]
    assert links and all(re.match(r"#|data:image/jpeg;base64,", link) for link in links)
    policy = [v for tag, key, v in tree.attributes if tag == "meta" and v and "default-src" in v]
    assert len(policy) == 1 and policy[0].startswith("default-src 'none'")
    assert "@import" not in "".join(tree.text) and "url(" not in "".join(tree.text)


def test_every_picture_has_a_text_and_every_table_headings(records):
    text = render(measured(), records, CLASSES, "data")
    pictures = re.findall(r"<svg[^>]*>", text)
    assert pictures and all("aria-hidden" in p or 'aria-label="' in p for p in pictures)
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert len(tables) >= 6 and all('scope="col"' in t and 'scope="row"' in t for t in tables)
    assert '<html lang="en">' in text and text.count("<h1>") == 1


def test_each_photo_is_in_the_page_once_and_shown_three_times(records):
    text = render(measured(), records, CLASSES, "data", photos=2)
    stored = re.findall(r'<image id="(photo-\d+)"', text)
    assert sorted(stored) == ["photo-0", "photo-1"]
    assert sorted(re.findall(r'<use href="#(photo-\d+)"', text)) == sorted(stored * 3)


def test_the_number_of_photos_is_bounded(records):
    assert "photo-0" not in render(measured(), records, CLASSES, "data", photos=0)
    with pytest.raises(ValueError, match="choose 0 to 24"):
        render(measured(), records, CLASSES, "data", photos=25)


def test_without_costs_the_page_says_why_there_is_no_speed(records):
    assert "speed and size were not asked for" in render(
        measured(costs=(None, None)), records, CLASSES, "data"
    )


def test_a_sentence_on_each_student_tells_its_part_cost_and_worst_error():
    student = (0, 0, 0.9, A), (0, 1, 0.8, (40, 40, 60, 49)), (1, 0, 0.3, A)
    found = [
        Found(Source("big", True), TEACHER, COST, ""),
        Found(Source("small", False), detections(*student), SMALLER, ""),
    ]
    assert findings(measure(found, TRUTH, 2)) == [
        "small reaches 50% of big's AP (50.0 of 100.0, COCO rules), with 4 times fewer parameters, at 2.5 times the "
        "speed. Most AP50 is lost to localisation errors: +50.0 if they were mended (big: \N{PLUS-MINUS SIGN}0.0)."
    ]
    same = [Found(Source("big", True), TEACHER, None, ""), Found(Source("s", False), TEACHER, None, "")]
    assert findings(measure(same, TRUTH, 2)) == ["s reaches 100% of big's AP (100.0 of 100.0, COCO rules)."]


@pytest.mark.parametrize("classes", [1, 9, 10, 80])
def test_a_selector_appears_where_there_are_many_classes(records, classes):
    found = [Found(Source(n, n == "t"), detections((0, 0, 0.9, A)), None, "") for n in "ts"]
    names = [f"class {i}" for i in range(classes)]
    text = render(
        measure(found, truth((0, 0, A, 0), (1, classes - 1, B, 0)), classes), records, names, "data"
    )
    assert ('id="class-choice"' in text) == (classes > 9)
    assert text.count("data-panel=") == classes + (classes > 1)


@pytest.mark.parametrize(
    ("highest", "expected"),
    [(52.5, [0, 20, 40, 60]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, [0, 1]), (0.7, [0, 0.2, 0.4, 0.6, 0.8])],
)
def test_axes_have_round_numbers_that_hold_everything(highest, expected):
    assert ticks(highest) == pytest.approx(expected)
