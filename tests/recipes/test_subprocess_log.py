"""A child's console: what goes to the file, what to the screen, and that no child outlives its parent."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from det_distill.recipes import subprocess_log
from det_distill.recipes.subprocess_log import BarFilter, run_logged


class Terminal(io.StringIO):
    def isatty(self):
        return True


def filtered(*chunks, screen):
    log = io.BytesIO()
    keeper = BarFilter(log, screen)
    for chunk in chunks:
        keeper.write(chunk)
    keeper.close()
    return log.getvalue(), screen.getvalue()


def test_a_bar_goes_to_the_terminal_and_everything_else_to_the_log():
    log, screen = filtered(
        b"a warning\n",
        b"\r 0%",
        b"\r50%",
        b"another\n",
        b"\r100%",
        b"\n",
        b"Trace\n  back\n",
        screen=Terminal(),
    )
    assert log == b"a warning\nanother\nTrace\n  back\n"
    assert screen == "\r 0%\r50%\r100%\n"


def test_a_bar_that_was_left_open_is_ended():
    assert filtered(b"\r10%", screen=Terminal()) == (b"", "\r10%\n")


def test_where_there_is_no_terminal_each_state_of_the_bar_is_a_line():
    assert filtered(b"\r0%", b"\r50%\r100%\n", b"x\n", screen=io.StringIO()) == (b"x\n", "0%\n50%\n100%\n")


def test_output_and_errors_go_to_the_end_of_the_log_and_the_status_is_returned(tmp_path):
    log = tmp_path / "log"
    log.write_text("earlier\n")
    code = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(7)"
    assert run_logged([sys.executable, "-c", code], log, bar=io.StringIO()) == 7
    assert sorted(log.read_text().split()) == ["earlier", "err", "out"]


def test_a_killed_child_gives_minus_the_signal(tmp_path):
    code = "import os; os.kill(os.getpid(), 9)"
    assert run_logged([sys.executable, "-c", code], tmp_path / "log", bar=io.StringIO()) == -9


def test_on_a_terminal_the_child_draws_its_bar_as_on_a_terminal(tmp_path):
    reader, writer = pty.openpty()
    code = "import sys; sys.stderr.write('\\r' + str(sys.stderr.isatty()) + '\\n')"
    with os.fdopen(writer, "w") as screen:
        assert run_logged([sys.executable, "-c", code], tmp_path / "log", bar=screen) == 0
        assert b"\rTrue" in os.read(reader, 100)
    os.close(reader)


PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
from pathlib import Path
sys.path.insert(0, {folder!r})
from subprocess_log import run_logged  # alone: without torch it starts in a moment
run_logged([sys.executable, "-c", {child!r}], Path({log!r}))
"""
CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + CHILD


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_its_parent_however_that_ends(tmp_path, number):
    log = tmp_path / "log"
    code = PARENT.format(child=CHILD, log=str(log), folder=str(Path(subprocess_log.__file__).parent))
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    child = int(waited_for(lambda: log.exists() and log.read_text().strip()))
    parent.send_signal(number)
    parent.wait(60)
    waited_for(lambda: not running(child))


def test_a_child_that_ignores_the_polite_signal_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess_log, "_SECONDS_TO_END", 0.2)
    log = tmp_path / "log"

    def interrupted(child, reader, out):
        waited_for(lambda: log.read_text().strip())
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess_log, "_follow", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_logged([sys.executable, "-c", STUBBORN], log, bar=io.StringIO())
    assert not running(int(log.read_text()))


def waited_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise TimeoutError


def running(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
