"""What a teacher and its students find on a data set, as one page for a browser."""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ...analysis.batches import check_data
from ...analysis.detections.measure import measure
from ...analysis.detections.numbers import write_csv, write_json
from ...analysis.detections.page import MOST_PHOTOS, environment, write_page
from ...analysis.detections.sources import find_all, parse_sources
from ...evaluation.columns import GroundTruth
from ...evaluation.ground_truth import evaluation_dicts
from ...files import output_folder
from .shared import config, last_options

HELP = "a page on what a teacher and its students find: AP, curves, errors, speed, photos"
DESCRIPTION = (
    "Run detectors on a data set, or read what they found, and write one HTML page that compares them: AP by VOC and "
    "COCO rules, precision over recall, errors, sizes of objects, speed, and the photos on which student and teacher "
    "differ most. Writes detections.html, the same numbers as detections.csv and detections.json, and the boxes of "
    "each network to boxes/NAME.json."
)
_FORM = (
    "NAME=CONFIG:WEIGHTS, or NAME=FILE.json of finished detections in COCO's result format (no speed then)"
)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the report."""
    p = parser.add_argument_group("what is compared")
    p.add_argument(
        "--config-file", required=True, metavar="FILE", help="says the data: a config, or a zoo name"
    )
    p.add_argument(
        "--teacher",
        action="append",
        required=True,
        metavar="NAME=...",
        help=f"{_FORM}; others are compared with the first teacher",
    )
    p.add_argument(
        "--student", action="append", required=True, metavar="NAME=...", help=f"{_FORM}; once for each"
    )
    p.add_argument(
        "--data", default="", metavar="NAME", help="a data set of the config; default: DATASETS.TEST"
    )
    p.add_argument(
        "--count-difficult",
        action="store_true",
        help="VOC rules take objects marked difficult as ordinary ones; the devkit ignores them (TEST.COUNT_DIFFICULT)",
    )
    p = parser.add_argument_group("the page")
    p.add_argument(
        "--threshold", type=float, default=0.5, help="score from which boxes are shown (0.5); AP uses all"
    )
    p.add_argument(
        "--photos", type=int, default=6, metavar="N", help=f"of each student, up to {MOST_PHOTOS} (6)"
    )
    p.add_argument(
        "--seconds", type=float, default=3.0, help="how long the speed of each network is measured (3)"
    )
    p.add_argument("--no-cost", action="store_true", help="measure neither speed nor size")
    last_options(parser, "detections", "the page and its numbers")


def main(args: argparse.Namespace) -> None:
    """Run or read the detectors, print a line for each, write page and numbers."""
    environment()  # jinja2's absence is to be known now, not after the work
    if args.photos > MOST_PHOTOS:
        raise ValueError(f"--photos {args.photos}: at most {MOST_PHOTOS}, all of them are within the page")
    sources = parse_sources(args.teacher, args.student)
    cfg = config(args.config_file, args)
    data = _data(cfg, args.data)
    records = evaluation_dicts(data)
    classes = list(MetadataCatalog.get(data).thing_classes)
    if not records:
        raise ValueError(f"{data}: no image in there")
    folder = output_folder(args.output, *([] if all(source.file for source in sources) else ["boxes"]))
    found = find_all(sources, cfg, data, folder / "boxes", cost=not args.no_cost, seconds=args.seconds)
    count_difficult = args.count_difficult or bool(cfg.TEST.get("COUNT_DIFFICULT", False))
    truth = GroundTruth.from_dicts(records)
    measured = measure(found, truth, len(classes), threshold=args.threshold, count_difficult=count_difficult)
    width = max(len(one.name) for one in measured)
    for one in measured:
        row = one.table
        print(f"{one.name:{width}}  AP {row['coco/AP']:.1f} (COCO)  AP50 {row['voc/AP50']:.1f} (VOC)")
    page = write_page(
        measured,
        records,
        classes,
        data,
        folder / "detections.html",
        photos=args.photos,
        count_difficult=count_difficult,
    )
    tables = [
        write_csv(measured, classes, folder / "detections.csv"),
        write_json(measured, classes, data, folder / "detections.json"),
    ]
    print(f"Wrote {page} (open it in a browser), {' and '.join(map(str, tables))}")


def _data(cfg: CfgNode, chosen: str) -> str:
    """The one data set that the page is about."""
    if chosen:
        return check_data(cfg, [chosen])[0]
    if len(cfg.DATASETS.TEST) != 1:
        held = ", ".join(cfg.DATASETS.TEST) or "none"
        raise ValueError(f"the page is about one data set, DATASETS.TEST has {held}: choose one with --data")
    return check_data(cfg, cfg.DATASETS.TEST)[0]
