"""`det-distill`: its list, its versions, what it says of a wrong word, and the help of every command."""

import argparse
import ast
import importlib
from pathlib import Path

import pytest

from det_distill.cli import main as cli
from det_distill.cli import versions
from det_distill.cli.helping import command_parser
from det_distill.cli.main import COMMANDS, main
from det_distill.cli.running import run

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).parents[2]


def said(capsys, *words, status):
    """What a command line that ends at once prints."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert (end.value.code or 0) == status
    printed = capsys.readouterr()
    return printed.out + printed.err


def parsers(parser):
    """A parser and those of its own commands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def test_the_list_has_a_command_for_each_module_that_has_a_command_line():
    folder = ROOT / "det_distill/cli"
    files = [*folder.glob("*.py"), *folder.glob("*/__init__.py")]
    has_parser = {
        file.parent.name if file.name == "__init__.py" else file.stem
        for file in files
        if {"parser", "main"}
        <= {n.name for n in ast.parse(file.read_text()).body if isinstance(n, ast.FunctionDef)}
    }
    assert has_parser - {"main"} == {command.module for command in COMMANDS.values()}


def test_the_help_lists_every_command_once_in_the_order_of_a_persons_work(capsys):
    text = said(capsys, "--help", status=0)
    listed = [line.split()[0] for line in text.splitlines() if line[2:].startswith(tuple(COMMANDS))]
    assert listed == list(COMMANDS)
    order = ["teacher-check", "train", "eval", "predict", "export"]
    assert sorted(order, key=listed.index) == order
    assert all(command.help in text for command in COMMANDS.values())
    assert text == said(capsys, status=2)  # without a word


def test_the_version_tells_what_is_there_and_how_to_get_what_is_not(capsys, monkeypatch):
    known = versions._version
    monkeypatch.setattr(versions, "_version", lambda name: "" if name == "onnx" else known(name))
    lines = dict(line.split(maxsplit=1) for line in said(capsys, "--version", status=0).splitlines())
    assert set(lines) == {"det_distill", *versions._NEEDED, *versions.OPTIONAL}
    assert {"torch", "detectron2", "pycocotools", "hotcoco", "onnx"} <= set(lines)
    assert lines["torch"] == known("torch") and lines["torch"][0].isdigit()
    assert lines["onnx"] == "not installed; for export to ONNX: pip install 'det_distill[export]'"


@pytest.mark.skipif(tomllib is None, reason="needs tomllib")
def test_what_is_not_installed_is_in_the_extra_that_is_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, (_, extra) in versions.OPTIONAL.items():
        assert any(entry.split(">")[0] == name for entry in project["optional-dependencies"][extra]), name
    module, _, function = project["scripts"]["det-distill"].partition(":")
    assert getattr(importlib.import_module(module), function) is main


def test_a_mistyped_command_ends_with_one_line_that_names_the_nearest(capsys):
    text = said(capsys, "trian", status=2)
    assert text.startswith("det-distill: there is no command 'trian' (did you mean train?)")
    assert text.count("\n") == 1 and all(name in text for name in COMMANDS)
    assert "did you mean" not in said(capsys, "xyzzy", status=2)
    assert said(capsys, "--verison", status=2).startswith("det-distill: unrecognized arguments: --verison (")


def test_a_mistake_is_told_in_one_line_with_the_commands_name(capsys):
    for words, status, text in [
        (["train"], "det-distill train: --config-file is missing", ""),
        (["eval", "--config-file", "nothing.yaml"], "det-distill eval: config 'nothing.yaml' is no file", ""),
        (["eval"], 2, "det-distill eval: the following arguments are required: --config-file ("),
        (["teacher-check", "--imges", "3"], 2, "det-distill teacher-check: "),
    ]:
        with pytest.raises(SystemExit) as end:
            main(words)
        found = end.value.code
        assert found == status or (isinstance(found, str) and found.startswith(str(status)))
        assert str(found).count("\n") == 0
        err = capsys.readouterr().err
        assert err.startswith(text) and err.count("\n") <= 1


def test_ctrl_c_ends_with_one_sentence_and_the_status_that_shells_know(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    module = importlib.import_module("det_distill.cli.train")
    monkeypatch.setattr(module, "main", interrupted)
    text = said(capsys, "train", status=130)
    assert text == "\nInterrupted. The same command with --resume goes on from the last checkpoint.\n"
    monkeypatch.setattr(cli.importlib, "import_module", interrupted)  # while torch is imported
    assert said(capsys, "eval", status=130) == "\nInterrupted.\n"


def test_an_error_that_is_nobodys_input_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0, "x")
    with pytest.raises(SystemExit, match="^x: no such key$"):
        run(lambda: {}["no such key"], "x")
    assert run(lambda: 7, "x") == 7


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_is_for_and_explains_each_of_its_options(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    module = importlib.import_module(f"det_distill.cli.{COMMANDS[name].module}")
    program = f"det-distill {name}"
    for parser in parsers(module.parser(program)):
        assert parser.prog.startswith(program)
        assert len(parser.description.split()) >= 12, f"{parser.prog}: no paragraph says what it is for"
        options = [a for a in parser._actions if not isinstance(a, argparse._SubParsersAction)]
        for option in options:
            words = (option.help or "").split()
            assert len(words) >= 2, f"{parser.prog}: {option.option_strings or option.dest} is not explained"
        assert parser.format_help()  # a wrong "%" in a help text shows here
        groups = [g for g in parser._action_groups if len(g._group_actions) > 1]
        assert len(options) < 6 or len(groups) > 1, (
            f"{parser.prog}: its {len(options)} options are in no groups"
        )
    assert f"{program} " in module.parser(program).format_help().split("xample", 1)[1], "no example line"
    assert program in said(capsys, name, "--help", status=0)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_is_a_command_line_of_it(name):
    import shlex

    module = importlib.import_module(f"det_distill.cli.{COMMANDS[name].module}")
    program = f"det-distill {name}"
    parser = module.parser(program)
    lines = (parser.epilog or "").splitlines()
    examples = [line.strip() for line in lines if line.strip().startswith(program)]
    assert examples
    for line in examples:
        read = getattr(module, "arguments", parser.parse_args)
        read(shlex.split(line)[2:])


def test_the_files_in_tools_are_the_same_code(monkeypatch):
    for file in (ROOT / "tools").glob("*.py"):
        done = ast.parse(file.read_text())
        imported = [n for n in done.body if isinstance(n, ast.ImportFrom) and n.module == "det_distill.cli"]
        modules = {alias.name for n in imported for alias in n.names}
        assert len(modules) == 1 and modules <= {c.module for c in COMMANDS.values()}, file.name
        assert len(file.read_text().splitlines()) <= 10


def test_a_parser_ends_its_help_with_its_examples(capsys):
    parser = command_parser("det-distill x", "One.\n\nTwo.", "--a 1", epilog_more="More.")
    assert parser.format_help().endswith(
        "One.\n\nTwo.\n\noptions:\n  -h, --help  show this help message and exit\n"
        "\nexample:\n  det-distill x --a 1\n\nMore.\n"
    )
    with pytest.raises(SystemExit):
        parser.parse_args(["--b"])
    assert capsys.readouterr().err == (
        "det-distill x: unrecognized arguments: --b ('det-distill x --help' lists the options)\n"
    )
