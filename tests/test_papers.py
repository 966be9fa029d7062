"""Every recipe of a paper says what it reproduces, how sure that is and how to run it; docs/papers.md lists them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "configs/papers").glob("*/recipe*.yaml"))
FIELDS = ("Reproduces", "Published", "Sure", "Run")


def header(path):
    """Field -> text, of the comment that a file begins with."""
    lines = re.match(r"(?:#.*\n)+", path.read_text()).group().splitlines()
    text = " ".join(line.lstrip("# ").strip() for line in lines)
    parts = re.split(rf"\b({'|'.join(FIELDS)}): ", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_recipe_of_a_paper_says_what_it_reproduces_how_sure_that_is_and_its_command(path):
    found = header(path)
    assert tuple(found) == FIELDS and all(found.values())
    assert found["Run"].strip() == f"python tools/run_recipe.py {path.relative_to(ROOT)}"


def test_the_page_on_papers_lists_every_recipe():
    links = re.findall(r"\]\(\.\./(configs/papers/[^)]+)\)", (ROOT / "docs/papers.md").read_text())
    assert sorted(links) == [str(path.relative_to(ROOT)) for path in RECIPES]
