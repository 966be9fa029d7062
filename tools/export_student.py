#!/usr/bin/env python
"""Write the student of a run for its next home: `det-distill export`."""

from det_distill.cli import export
from det_distill.cli.running import run

if __name__ == "__main__":
    run(export.main, "export_student.py")
