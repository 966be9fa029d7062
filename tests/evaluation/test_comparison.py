"""The table of detectors: recorded results, and the same numbers in every format."""

import csv
import json

import pytest

from det_distill.evaluation.comparison import (
    ComparisonRow,
    comparison_markdown,
    comparison_text,
    outcome,
    recorded_results,
    write_comparison,
)
from det_distill.evaluation.cost import ModelCost


def cost(**changes):
    values = {
        "parameters": 6_540_000,
        "giga_multiply_adds": 2.345,
        "images_per_second": 9.87,
        "height": 320,
        "width": 384,
        "threads": 2,
        "device": "cpu",
    }
    return ModelCost(**{**values, **changes})


ROWS = [
    ComparisonRow("teacher", {"bbox/AP": 20.04, "bbox/AP50": 50.06, "voc/AP50": 49.5}, cost()),
    ComparisonRow("student", {"bbox/AP": 9.96, "bbox/APl": float("nan")}, cost(parameters=900_000)),
]


def test_the_last_evaluation_of_a_run_counts(tmp_path):
    lines = ['{"bbox/AP": 1, "iteration": 9}', '{"total_loss": 2}', '{"bbox/AP": 3, "voc/AP50": NaN}', '{"bb']
    (tmp_path / "metrics.json").write_text("\n".join(lines))
    results = recorded_results(tmp_path)
    assert results["bbox/AP"] == 3 and set(results) == {"bbox/AP", "voc/AP50"}
    assert recorded_results(tmp_path / "nowhere") == {}
    (tmp_path / "metrics.json").write_text('{"classification/top1": 5, "total_loss": 2}')
    assert recorded_results(tmp_path) == {"classification/top1": 5}


def test_the_text_has_a_column_per_number_and_a_dash_for_what_is_missing():
    header, line, teacher, student, _, explanation = comparison_text(ROWS).split("\n")
    assert teacher.split() == ["teacher", "20.0", "50.1", "49.5", "6.54", "2.35", "9.9"]
    assert student.split() == ["student", "10.0", "-", "-", "0.90", "2.35", "9.9"]
    assert len(header) == len(line) == len(teacher) == len(student)
    assert "320x384 pixels, images/s on cpu (2 threads)." in explanation


def test_classifiers_and_metric_learners_have_columns_of_their_own():
    rows = [ComparisonRow("student", {"classification/top1": 71.26, "classification/nll": 0.8}, cost())]
    header, _, student, _, explanation = comparison_text(rows).split("\n")
    assert header.split()[:2] == ["top-1", "parameters"] and student.split()[:2] == ["student", "71.3"]
    assert explanation.startswith("Top-k accuracy in percent: the class is") and "ECE" not in explanation
    rows = [ComparisonRow("learner", {"retrieval/R1": 40.0, "retrieval/mAP": 12.34}, cost())]
    assert comparison_text(rows).split("\n")[2].split()[:3] == ["learner", "40.0", "12.3"]


def classifiers(classes=()):
    teacher = {"top1": 80.0, "top5": 99.0, "ece": 4.25, "nll": 0.5, "top1-mean": 79.0}
    student = {"top1": 70.0, "top5": 95.0, "agreement-big": 75.55, "top1-mean": 69.0}
    for results in (teacher, student):
        results.update({f"top1-{name}": results["top1"] + i for i, name in enumerate(classes)})
    rows = {"the teacher": teacher, "student": student}
    return [
        ComparisonRow(name, {f"classification/{k}": v for k, v in results.items()}, cost())
        for name, results in rows.items()
    ]


def test_a_classifier_has_columns_for_what_some_row_has():
    header, _, teacher, student, _, explanation = comparison_text(classifiers()).split("\n")
    assert header.split()[:6] == ["top-1", "top-5", "ECE", "agreement", "with", "big"]
    assert teacher.split()[2:6] == ["80.0", "99.0", "4.2", "-"]
    assert student.split()[1:5] == ["70.0", "95.0", "-", "75.5"]
    assert "ECE is the expected calibration error" in explanation and "Agreement is" in explanation


def test_few_classes_have_a_table_of_their_own_below():
    text = comparison_text(classifiers(["cat", "dog"]))
    header, _, cat, dog, mean = text.split("\n\n")[2].split("\n")
    assert "cat" not in text.split("\n")[0] and header.split()[-3:] == ["the", "teacher", "student"]
    assert [line.split() for line in (cat, dog, mean)] == [
        ["cat", "80.0", "70.0"],
        ["dog", "81.0", "71.0"],
        ["mean", "79.0", "69.0"],
    ]
    assert "| dog | 81.0 | 71.0 |" in comparison_markdown(classifiers(["cat", "dog"])).split("\n")


def test_many_classes_have_none():
    assert "number19" in comparison_text(classifiers([f"number{i}" for i in range(20)]))
    assert "number19" not in comparison_text(classifiers([f"number{i}" for i in range(21)]))


@pytest.mark.parametrize(
    ("results", "text"),
    [
        ({"bbox/AP": 20.0, "bbox/AP50": 41.16}, "AP50 41.2"),
        ({"classification/top1": 50.0}, "top-1 50.0"),
        ({"retrieval/R1": 3.0, "retrieval/R4": 9.0}, "R@1 3.0"),
        ({}, ""),
    ],
)
def test_a_run_is_known_by_one_number(results, text):
    assert outcome(results) == text


def test_sizes_that_differ_are_not_stated_as_one():
    rows = [ROWS[0], ComparisonRow("other", {}, cost(height=100))]
    assert "pixels" not in comparison_text(rows)


def test_markdown_has_the_same_cells_as_the_text():
    markdown = comparison_markdown(ROWS).split("\n")
    assert [cell.strip() for cell in markdown[2].strip("|").split("|")] == comparison_text(ROWS).split("\n")[
        2
    ].split()
    assert {line.count("|") for line in markdown[:4]} == {8}


def test_files_hold_the_numbers(tmp_path):
    markdown, table, everything = write_comparison(ROWS, tmp_path / "new")
    assert markdown.read_text() == comparison_markdown(ROWS)
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["AP50"]) == pytest.approx(50.06) and rows[1]["AP50"] == "nan"
    assert float(rows[1]["parameters_millions"]) == 0.9
    content = json.loads(everything.read_text(), parse_constant=pytest.fail)
    assert content[0]["cost"]["threads"] == 2 and content[1]["results"]["bbox/APl"] is None


def test_the_file_of_classifiers_names_the_teacher_of_an_agreement(tmp_path):
    with open(write_comparison(classifiers(["cat"]), tmp_path)[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["name", "top1", "top5", "ece", "agreement_big"]
    assert (rows[0]["agreement_big"], float(rows[1]["agreement_big"])) == ("nan", 75.55)
