#!/usr/bin/env python
"""See whether the teachers of a config fit its student: `det-distill teacher-check`."""

from det_distill.cli import teacher_check
from det_distill.cli.running import run

if __name__ == "__main__":
    run(teacher_check.main, "teacher_check.py")
