"""docs/methods.md and the code: the overview's rows, the sections, the tables of options."""

import re
from collections import Counter

import pytest

from det_distill.methods import METHODS, method_options
from tests.documents import ROOT, config_tables

METHODS_PAGE = (ROOT / "docs/methods.md").read_text()
TEST_FILES = {file.name for file in (ROOT / "tests/losses").iterdir()}


def overview(text):
    """The rows of the overview of methods: the cells of each, the header's first."""
    table = re.search(r"^\| method \| paper \|.*\n\|[-| ]+\|\n(?:\|.*\n)+", text, re.MULTILINE)
    lines = table.group().splitlines()
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in (lines[0], *lines[2:])]


def faults_of_the_overview(text, test_files):
    """What is wrong with the overview, in words."""
    header, *rows = overview(text)
    names = [re.fullmatch(r"\[(\w+)\]\(#(\w+)\)", row[0]).groups() for row in rows]
    faults = [f"{n}: it has no row" for n in METHODS.keys() - {n for n, _ in names}]
    faults += [f"{n}: there is no such method" for n, _ in names if n not in METHODS]
    faults += [f"{n}: the link leads to {link}" for n, link in names if link != n.lower()]
    faults += [f"{n}: two rows" for n, count in Counter(n for n, _ in names).items() if count > 1]
    faults += [
        f"{row[0]}: a cell is empty or missing" for row in rows if len(row) != len(header) or not all(row)
    ]
    tests = header.index("tests (`tests/losses`)")
    for name, row in zip(names, rows, strict=True):
        named = re.findall(r"`(\w+\.py)`", row[tests])
        faults += [] if named else [f"{name[0]}: no test is named"]
        faults += [f"{name[0]}: {file} does not exist" for file in named if file not in test_files]
    return faults


def test_the_overview_has_a_complete_row_for_every_method_and_its_tests_exist():
    assert not faults_of_the_overview(METHODS_PAGE, TEST_FILES)


@pytest.mark.parametrize(
    ("pattern", "instead", "fault"),
    [
        (r"^\| \[FSP\].*\n", "", "FSP: it has no row"),
        (r"\| \[FSP\]\(#fsp\)", "| [FSB](#fsp)", "FSB: there is no such method"),
        (r"\[FSP\]\(#fsp\)", "[FSP](#pearson)", "FSP: the link leads to pearson"),
        (r"^(\| \[FSP\].*\n)", r"\1\1", "FSP: two rows"),
        (r"`test_fsp\.py`", "`test_flow.py`", "FSP: test_flow.py does not exist"),
        (r"`test_fsp\.py`", "-", "FSP: no test is named"),
        (r"\| Yim et al\. 2017 \|", "|  |", r"[FSP](#fsp): a cell is empty or missing"),
        (r"\| Yim et al\. 2017 \|", "|", r"[FSP](#fsp): a cell is empty or missing"),
    ],
)
def test_a_fault_of_the_overview_would_be_found(pattern, instead, fault):
    text, count = re.subn(pattern, instead, METHODS_PAGE, count=1, flags=re.MULTILINE)
    assert count and fault in faults_of_the_overview(text, TEST_FILES)


def faults_of_a_section(text, name):
    """The section's tables of options and those of the code, if they differ."""
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    options = {k.upper(): v for k, v in method_options(name).items()}
    found, expected = config_tables(sections[name]), [options] if options else []
    return [] if found == expected else [found, expected]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_section_with_its_options_and_their_defaults(name):
    assert not faults_of_a_section(METHODS_PAGE, name)


def test_the_page_of_methods_lists_no_method_that_does_not_exist():
    assert set(re.findall(r"^### (\w+)$", METHODS_PAGE, re.MULTILINE)) == set(METHODS)
