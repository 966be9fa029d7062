#!/usr/bin/env python
"""Turn pretrained weights of other libraries into a start for a detector: `det-distill import-backbone`."""

from det_distill.cli import import_backbone
from det_distill.cli.running import run

if __name__ == "__main__":
    run(import_backbone.main, "import_backbone.py")
