"""The checks of every loss, for a loss that is not in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import ROOT


def checks_of_every_loss(line: str, folder: Path) -> dict[str, set[str]]:
    """Run `tests/losses/test_every_loss.py` for a loss that is one more line of its `BUILD`.

    A copy of the file is run by pytest within this process, where the loss is already known to `det_distill.losses`.

    Args:
        line: ``"Name": losses.Name,``.
        folder: for the copy.

    Returns:
        Each test function of the file -> the outcomes of its cases that concern the loss, or all losses together.
    """
    source = (ROOT / "tests/losses/test_every_loss.py").read_text()
    begin = "\nBUILD = {\n"
    assert source.count(begin) == 1
    copy = folder / "test_every_loss_and_one_more.py"
    copy.write_text(source.replace(begin, f"{begin}    {line}\n"))
    outcomes: dict[str, set[str]] = {name: set() for name in re.findall(r"^def (test_\w+)", source, re.M)}

    class Recorder:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" or report.failed:
                outcomes[report.nodeid.split("::")[1].split("[")[0]].add(report.outcome)

    name = line.split('"')[1]
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir", str(folder)]
    pytest.main([str(copy), "-k", f"{name} or every_public_loss", *options], plugins=[Recorder()])
    return outcomes
