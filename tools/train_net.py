#!/usr/bin/env python
"""Train, resume or evaluate a config: `det-distill train`, with the words of detectron2."""

from det_distill.cli import train
from det_distill.cli.running import run

if __name__ == "__main__":
    run(train.main, "train_net.py", train.ERRORS, train.INTERRUPTED)
