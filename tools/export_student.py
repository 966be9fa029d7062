#!/usr/bin/env python
"""Write the student of a run as a plain detectron2 checkpoint and config, as safetensors, and its backbone alone.

    python tools/export_student.py --config-file CONFIG --output FOLDER [--weights FILE] [KEY VALUE ...]

CONFIG is the run's own, of a detector or a classifier, distilled or not; no teacher is built. Every file is loaded
again and must give the same outputs, else nothing is written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from torch import Tensor

from det_distill.classification.mapper import mapper_for_tests
from det_distill.engine import load_config
from det_distill.export import ExportError, StudentExport, export_student, start_of_a_detector, usage
from det_distill.tasks import task_of


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    p = argparse.ArgumentParser(prog="export_student.py", description=__doc__.split("\n")[0])
    p.add_argument("--config-file", required=True, metavar="FILE", help="the run's config, or a zoo name")
    p.add_argument("--weights", metavar="FILE", help="its checkpoint; default: OUTPUT_DIR/model_final.pth")
    p.add_argument("--output", required=True, metavar="FOLDER", help="created, or an earlier export replaced")
    p.add_argument("--image", metavar="FILE", help="photo for the check of equal outputs; default: noise")
    p.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config")
    return p


def main(arguments: Sequence[str] | None = None) -> None:
    """Export, and say what was written and how to use it."""
    args = parser().parse_args(arguments)
    cfg = load_config(args.config_file, args.opts)
    weights = args.weights or os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    image = _read(args.image, cfg) if args.image else None
    print(_report(export_student(cfg, weights, args.output, image=image)))


def _read(path: str, cfg: CfgNode) -> Tensor:
    """An image as the model sees it in a test, (C, H, W)."""
    if not task_of(cfg).finds_boxes:
        return mapper_for_tests(cfg)({"file_name": path})["image"]
    pixels = read_image(path, format=cfg.INPUT.FORMAT)
    shortest = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    pixels = shortest.get_transform(pixels).apply_image(pixels)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _report(export: StudentExport) -> str:
    lines = [f"Wrote to {export.folder}:"]
    for name, size in export.sizes.items():
        difference = export.differences.get(name)
        check = "" if difference is None else f"  loaded again: largest output difference {difference:g}"
        lines.append(f"  {name:22}{size / 1e6:9.2f} MB{check}")
    lines += ["Use it in Python:", *(f"  {line}" for line in usage(export))]
    lines += ["Start a detector from its backbone:", *(f"  {line}" for line in start_of_a_detector(export))]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, KeyError, ValueError, OSError, ExportError) as error:
        sys.exit(f"export_student.py: {error.args[0] if isinstance(error, KeyError) else error}")
