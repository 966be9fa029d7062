"""A child process whose console goes to a file, while its progress bar stays visible; it ends when we do."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import tty
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TextIO

__all__ = ["BarFilter", "StepFailed", "run_logged"]

_PR_SET_PDEATHSIG = 1
_SECONDS_TO_END = 5


class StepFailed(RuntimeError):
    """A step's process ended with an error; the message is for the person at the console."""


def run_logged(
    command: Sequence[str], log: Path, *, keep: Sequence[int] = (), bar: TextIO | None = None
) -> int:
    """Run a command to its end and return its exit status (-N: killed by signal N).

    Standard output goes to the end of `log`, and so does standard error, but for progress bars, which are
    shown. The child is ended, with all processes of its session, when this function is left by an exception
    (such as Ctrl-C), and, on Linux, when this process dies in any other way.

    Args:
        command: program and arguments.
        log: a file in an existing folder.
        keep: file descriptors that the child inherits.
        bar: where bars are shown; default: standard error.
    """
    bar = sys.stderr if bar is None else bar
    reader, writer = _channel(bar)
    with open(log, "ab", buffering=0) as file:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=writer,
                start_new_session=True,
                pass_fds=keep,
                preexec_fn=_die_with_parent,
            )
        finally:
            os.close(writer)
        try:
            _follow(child, reader, BarFilter(file, bar))
            return child.wait()
        finally:
            _end(child)
            os.close(reader)


def _channel(bar: TextIO) -> tuple[int, int]:
    """(reading, writing) end: a terminal if the bar is shown on one, so that the child draws it likewise."""
    if not bar.isatty():
        return os.pipe()
    reader, writer = pty.openpty()
    tty.setraw(writer)
    _copy_size(bar, reader)
    return reader, writer


def _copy_size(bar: TextIO, terminal: int) -> None:
    size = fcntl.ioctl(bar.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)


def _follow(child: subprocess.Popen[bytes], reader: int, out: BarFilter) -> None:
    """Pass on what the child writes until nobody can write any more, or the child is dead and silent."""
    while True:
        ready, _, _ = select.select([reader], [], [], 1.0)
        if not ready:
            if child.poll() is not None:
                break
            continue
        try:
            chunk = os.read(reader, 1 << 16)
        except OSError:  # a pseudo-terminal reports its end as an error
            chunk = b""
        if not chunk:
            break
        out.write(chunk)
    out.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child's whole session if the child is still there."""
    if child.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
            child.wait(_SECONDS_TO_END)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            child.wait()
            return


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class BarFilter:
    r"""Tells a progress bar (text after ``\r``, up to the end of its line) from everything else.

    Args:
        log: takes everything else.
        bar: takes the bar; if it is no terminal, every state of the bar is a line of its own.
    """

    def __init__(self, log: BinaryIO, bar: TextIO) -> None:
        self._log, self._bar = log, bar
        self._terminal = bar.isatty()
        self._in_bar = self._line_open = False

    def write(self, chunk: bytes) -> None:
        r"""Pass on what was written at once; a bar is redrawn at once, so text without ``\r`` is no part of it."""
        if self._in_bar and chunk[:1] not in (b"\r", b"\n"):
            self._in_bar = False
        for part in re.split(rb"([\r\n])", chunk):
            if part == b"\r":
                self._in_bar = True
                self._show("\r" if self._terminal else "\n" * self._line_open)
            elif not self._in_bar:
                self._log.write(part)
            elif part == b"\n":
                self._in_bar = False
                self._show("\n" * self._line_open)
                self._line_open = False
            elif part.strip():
                self._show(part.decode(errors="replace"))
                self._line_open = True
        self._bar.flush()

    def close(self) -> None:
        """End a bar that its process left open."""
        if self._line_open:
            self._show("\n")
            self._bar.flush()

    def _show(self, text: str) -> None:
        self._bar.write(text)
