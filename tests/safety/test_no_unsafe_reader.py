"""No module of the package has a reader that can run what it reads, but for what it wrote itself in memory."""

import ast
from pathlib import Path

import pytest

import det_distill

ROOT = Path(det_distill.__file__).parent
ALLOWED = {
    ("data/catalog.py", "pickle.loads"): "its own records, kept packed in memory",
    ("benchmark/memory.py", "pickle.load"): "from the process that started it, through a pipe",
}
UNSAFE = {
    *(
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "yaml.unsafe_load",
        "yaml.full_load",
        "eval",
        "exec",
    ),
    *(
        "dill.load",
        "joblib.load",
        "marshal.loads",
        "shelve.open",
        "np.load",
        "numpy.load",
        "ElementTree.parse",
    ),
    *("ET.parse", "ET.fromstring", "minidom.parse", "torch.hub.load", "torch.package.PackageImporter"),
}


def unsafe(call: ast.Call) -> str:
    """The name of what is called, if it can run what it reads; "" otherwise."""
    name = ast.unparse(call.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "torch.load" and options.get("weights_only") != "True":
        return name
    if name == "yaml.load" and "_Loader" not in map(ast.unparse, call.args):
        return name
    if name in ("np.load", "numpy.load") and options.get("allow_pickle", "False") == "False":
        return ""
    return name if name in UNSAFE else ""


@pytest.mark.parametrize(
    "file", sorted(ROOT.rglob("*.py")), ids=lambda file: file.relative_to(ROOT).as_posix()
)
def test_a_module_reads_only_with_safe_readers(file):
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    found = {name for name in map(unsafe, calls) if name}
    where = file.relative_to(ROOT).as_posix()
    assert not {name for name in found if (where, name) not in ALLOWED}


def test_what_is_allowed_is_there():
    for file, name in ALLOWED:
        assert f"{name}(" in (ROOT / file).read_text()
