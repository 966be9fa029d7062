"""Look at what trained networks learned and at what they find: reports, each with its numbers in files.

    python tools/analyze.py detections --config-file CONFIG --teacher NAME=CONFIG:WEIGHTS \\
        --student NAME=CONFIG:WEIGHTS ... [KEY VALUE ...]
    python tools/analyze.py reconstruction --network NAME=CONFIG:WEIGHTS ... --at ADDRESS [KEY VALUE ...]
    python tools/analyze.py directions --config-file CONFIG --student NAME=WEIGHTS ... [KEY VALUE ...]

detections: one page for a browser: AP, curves, errors, sizes, speed and photos of a teacher and its students.
reconstruction: how hard the features of finished networks are to reconstruct at one address (the analysis of FEED).
Where a training diverges, the others are reported, its errors are nan, and the exit status is 1.
directions: whether students have their teacher's directions, its lengths, or both, at the pairs of a distillation.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from ..helping import command_parser
from . import detections, directions, reconstruction
from .shared import check_numbers

__all__ = ["main", "parser"]

REPORTS = {"detections": detections, "reconstruction": reconstruction, "directions": directions}
"""Every report; a module with HELP, DESCRIPTION, `options` and `main`."""


def parser(program: str = "analyze.py") -> argparse.ArgumentParser:
    """Return the command line."""
    p = command_parser(
        program,
        "Look at trained networks more closely than one number does. Each report prints a table and writes its numbers "
        "and pictures: 'detections' is a page for the browser on what a teacher and its students find and miss; "
        "'reconstruction' tells how hard the features of networks are to reconstruct; 'directions' tells whether a "
        "student has its teacher's directions, its lengths, or both.",
        "detections --config-file demo/student.yaml --teacher big=demo/teacher.yaml:t.pth "
        "--student mine=demo/student.yaml:s.pth",
        "directions --config-file demo/student.yaml --student mine=s.pth",
    )
    reports = p.add_subparsers(required=True, metavar="REPORT", dest="report")
    for name, report in REPORTS.items():
        inner = reports.add_parser(name, help=report.HELP, description=report.DESCRIPTION)
        report.options(inner)
    return p


def main(arguments: Sequence[str] | None = None, program: str = "analyze.py") -> None:
    """Make one report: print it, write it."""
    args = parser(program).parse_args(arguments)
    check_numbers(args)
    for logger in ("detectron2", "fvcore"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    REPORTS[args.report].main(args)
