#!/usr/bin/env python
"""Time a distilled training step: `det-distill benchmark`."""

from det_distill.cli import benchmark
from det_distill.cli.running import run

if __name__ == "__main__":
    run(benchmark.main, "benchmark.py")
