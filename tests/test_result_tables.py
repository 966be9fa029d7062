"""The results in README and docs come from benchmarks/results, by benchmarks/make_tables.py."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def make_tables():
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "benchmarks" / "make_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_table_has_the_mean_and_the_standard_deviation_over_seeds(tmp_path):
    columns = "model,config,seed,hardware,threads,iterations,minutes,AP,AP50,VOC AP50,AP-x"
    rows = [
        "teacher,t,0,box,1,500,9.0,50,80,81,50",
        "student,s,0,box,1,400,2.0,10,30,31,10",
        "student,s,1,box,1,400,4.0,14,34,35,14",
    ]
    (tmp_path / "r.csv").write_text("\n".join([columns, *rows]) + "\n")
    lines = make_tables().table(tmp_path / "r.csv").splitlines()
    assert lines[2] == "| teacher | 1 | 50.0 | 80.0 | 81.0 | 50.0 | 9 |"
    assert lines[3] == "| student | 2 | 12.0 ± 2.8 | 32.0 ± 2.8 | 33.0 ± 2.8 | 12.0 ± 2.8 | 3 |"
    assert "400 iterations each, on box, 1 thread" in lines[-1]


def test_other_measures_are_shown_with_their_decimals(tmp_path):
    text = "model,seed,hardware,threads,iterations,top-1,nll\nsecond teacher,1,box,1,90,70.26,0.8125\n"
    (tmp_path / "r.csv").write_text(text + "fsp,0,box,1,40,50,1.5\n")
    lines = make_tables().table(tmp_path / "r.csv").splitlines()
    assert lines[2] == "| second teacher | 1 | 70.3 | 0.81 |" and "40 iterations" in lines[-1]


def test_what_a_row_does_not_have_is_a_dash(tmp_path):
    text = "model,seed,hardware,threads,iterations,top-1,agreement\nstudent alone,0,box,1,90,70,\n"
    (tmp_path / "r.csv").write_text(text + "KD,0,box,1,90,71,80\nKD,1,box,1,90,73,82\n")
    lines = make_tables().table(tmp_path / "r.csv").splitlines()
    assert lines[2:4] == ["| student alone | 1 | 70.0 | - |", "| KD | 2 | 72.0 ± 1.4 | 81.0 ± 1.4 |"]


def test_the_costs_of_methods_stand_in_their_column(tmp_path, monkeypatch):
    tables = make_tables()
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    (tmp_path / "benchmarks/results/costs.csv").write_text("method,ratio\nFSP,1.0312\n")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    text = (
        "| method | cost | tests |\n| --- | --- | --- |\n| [FSP](#fsp) | ? | a |\n| [New](#new) | ? | b |\n"
    )
    assert tables.with_costs(text).split("\n")[2:4] == [
        "| [FSP](#fsp) | 1.03 | a |",
        "| [New](#new) | - | b |",
    ]
    other = "| key | cost |\n| [FSP](#fsp) | ? |\n"
    assert tables.with_costs(other) == other


def test_the_documents_show_what_the_files_say():
    for name in make_tables().DOCUMENTS:
        text = (ROOT / name).read_text()
        assert make_tables().filled(text) == text
    assert "<!-- results:bccd -->" in (ROOT / "README.md").read_text()
