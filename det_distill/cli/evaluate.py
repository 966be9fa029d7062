"""Measure trained weights, or finished detections, on the test sets of a config.

det-distill eval --config-file CONFIG [--weights [NAME=]FILE ...] [--data NAME ...] [KEY VALUE ...]
det-distill eval --config-file CONFIG --detections [NAME=]FILE ... [--data NAME]
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from det_distill.cli.helping import CommandParser, add_overrides, command_parser
from det_distill.engine import load_config
from det_distill.evaluation.detection_file import FILE_NAME
from det_distill.evaluation.measuring import (
    Measured,
    Named,
    check_test_sets,
    last_weights,
    measure,
    measure_detections,
)
from det_distill.evaluation.results_table import results_text
from det_distill.files import output_folder, write_json
from det_distill.tasks import task_of

RESULTS_FILE = "results.json"


def parser(program: str = "det-distill eval") -> CommandParser:
    """Return the command line."""
    p = command_parser(
        program,
        "Measure a trained network on the test set of its config: of a detector the average precision by the rules of "
        "COCO and of PASCAL VOC side by side, in all and class by class; of a classifier its accuracy. Without "
        "--weights it is the run's own last checkpoint. Several weights come into one table. Of a distillation the "
        "student is measured, and no teacher is needed. Finished detections are measured without a network. The "
        "results are also written to results.json.",
        "--config-file demo/teacher.yaml OUTPUT_DIR output/mine",
        "--config-file demo/student.yaml --weights alone=a/model_final.pth --weights distilled=b/model_final.pth",
        "--config-file demo/student.yaml --detections coco_instances_results.json",
        usage=f"{program} [-h] --config-file FILE [options] [KEY VALUE ...]",
    )
    what = p.add_argument_group("what is measured")
    what.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="of the network and its data: a YAML file, or a name below configs/ or in detectron2's zoo",
    )
    what.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="a checkpoint of this config; once for each; default: the last one in OUTPUT_DIR",
    )
    what.add_argument(
        "--detections",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="detections in COCO's result format (coco_instances_results.json) in place of weights; once for each",
    )
    how = p.add_argument_group("on what, and how")
    how.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME",
        help="a data set of the config; once for each; default: DATASETS.TEST",
    )
    how.add_argument(
        "--count-difficult",
        action="store_true",
        help="VOC rules take objects marked difficult as ordinary ones; the devkit ignores them (TEST.COUNT_DIFFICULT)",
    )
    how.add_argument("--device", help="cpu, cuda, ...; default: MODEL.DEVICE")
    where = p.add_argument_group("where the results go")
    where.add_argument(
        "--output",
        metavar="FOLDER",
        help=f"for {RESULTS_FILE} and what detectors found; default: the folder 'eval' in OUTPUT_DIR",
    )
    add_overrides(p)
    return p


def main(arguments: Sequence[str] | None = None, program: str = "det-distill eval") -> None:
    """Measure, print, write."""
    args = parser(program).parse_args(arguments)
    if args.weights and args.detections:
        raise ValueError("--weights and --detections: measure one or the other")
    if "MODEL.WEIGHTS" in args.opts:
        raise ValueError("MODEL.WEIGHTS is where a training starts: name the file to measure with --weights")
    for logger in ("detectron2", "fvcore"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    cfg = _config(args)
    if args.count_difficult and not task_of(cfg).finds_boxes:
        raise ValueError("--count-difficult: the config describes a classifier, which finds no objects")
    folder = output_folder(args.output or os.path.join(cfg.OUTPUT_DIR, "eval"))
    check_test_sets(cfg)
    rows: list[Measured] = []
    for named in _named(args.detections):
        rows += measure_detections(cfg, named)
    for named in [] if args.detections else _named(args.weights or [last_weights(cfg)]):
        rows += measure(cfg, named, folder)
    print(results_text(rows))
    write_json(folder / RESULTS_FILE, _content(args.config_file, cfg, rows))
    print(f"\nWrote {folder / RESULTS_FILE}")


def _config(args: Any) -> CfgNode:
    chosen: list[Any] = ["MODEL.DEVICE", args.device] if args.device else []
    if args.data:
        chosen += ["DATASETS.TEST", str(tuple(args.data))]
    if args.count_difficult:
        chosen += ["TEST.COUNT_DIFFICULT", "True"]
    return load_config(args.config_file, [*args.opts, *chosen])


def _named(words: Sequence[str]) -> list[Named]:
    """Read [NAME=]FILE; a file without a name is called by its folder, if it is what a run ends with, or by its own.

    Raises:
        ValueError: two have one name.
    """
    found = []
    for word in words:
        name, equals, file = word.partition("=")
        if not equals or os.sep in name or Path(word).exists():
            name, file = _name(Path(word)), word
        found.append(Named(name, file))
    names = [named.name for named in found]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise ValueError(f"two files have the name {twice!r}: give them names of their own, NAME=FILE")
    return found


def _name(file: Path) -> str:
    """What a file is called that a run wrote: by the run's folder; any other by its own name."""
    if file.stem not in ("model_final", FILE_NAME.removesuffix(".json")):
        return file.stem
    folder = file.absolute().parent
    return (folder.parent if folder.name == "inference" else folder).name


def _content(config: str, cfg: CfgNode, rows: Sequence[Measured]) -> dict[str, Any]:
    """What the file says; NaN, the result for what does not occur in the data, is no JSON."""
    return {
        "config": config,
        "count_difficult": bool(cfg.TEST.COUNT_DIFFICULT),
        "measured": [
            {
                "name": row.name,
                "file": row.file,
                "data": row.data,
                "results": {k: v if math.isfinite(v) else None for k, v in row.results.items()},
            }
            for row in rows
        ],
    }
