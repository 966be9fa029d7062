"""The table of detectors: recorded results, and the same numbers in every format."""

import csv
import json

import pytest

from det_distill.evaluation.comparison import (
    ComparisonRow,
    comparison_markdown,
    comparison_text,
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


def test_the_text_has_a_column_per_number_and_a_dash_for_what_is_missing():
    header, line, teacher, student, _, explanation = comparison_text(ROWS).split("\n")
    assert teacher.split() == ["teacher", "20.0", "50.1", "49.5", "6.54", "2.35", "9.9"]
    assert student.split() == ["student", "10.0", "-", "-", "0.90", "2.35", "9.9"]
    assert len(header) == len(line) == len(teacher) == len(student)
    assert "320x384 pixels, images/s on cpu (2 threads)." in explanation


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
