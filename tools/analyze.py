#!/usr/bin/env python
"""Look at what trained networks learned: `det-distill analyze`."""

from det_distill.cli import analyze
from det_distill.cli.running import run

if __name__ == "__main__":
    run(analyze.main, "analyze.py")
