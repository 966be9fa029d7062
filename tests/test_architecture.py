"""Rule 7 and house rules that a test can check: what may import what, and file sizes."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "det_distill"
CORE = ["taps.py", "pairs.py", "distiller.py", "teachers.py", "padding.py"]
CORE += [
    f"{folder}/{p.name}"
    for folder in ("losses", "adapters", "methods")
    for p in (PACKAGE / folder).glob("*.py")
]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("name", CORE)
def test_the_core_and_the_losses_do_not_import_detectron2(name):
    assert not [m for m in imports(PACKAGE / name) if m.split(".")[0] == "detectron2"]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_one_idea_of_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300
    assert path.name not in ("utils.py", "misc.py", "helpers.py", "common.py")
