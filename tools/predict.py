#!/usr/bin/env python
"""Draw what a trained network finds in images and videos, and write it down: `det-distill predict`."""

from det_distill.cli import predict
from det_distill.cli.running import run

if __name__ == "__main__":
    run(predict.main, "predict.py", interrupted=predict.INTERRUPTED)
