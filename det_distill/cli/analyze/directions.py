"""Whether students have their teacher's directions, its lengths, or both."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from ...analysis.batches import check_data, labelled_batches
from ...analysis.directions import build_for_distances, load_student, measure
from ...analysis.directions_report import Row, directions_text, draw_directions, write_directions
from ...analysis.figures import new_figure
from ...analysis.named import parse_students
from .shared import batch_options, config, last_options

HELP = "whether students have their teacher's directions, its lengths, or both"
DESCRIPTION = (
    "Split the squared distance of student and teacher into the part of lengths and the part of "
    "directions. Writes directions.csv and directions.png."
)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the report."""
    p = parser.add_argument_group("what is compared")
    p.add_argument("--config-file", required=True, metavar="FILE", help="a distillation's config")
    p.add_argument(
        "--student",
        action="append",
        required=True,
        metavar="NAME=WEIGHTS",
        help="a checkpoint of the config's student, distilled or not; once for each",
    )
    p.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="compare here, without adapters, instead of at the config's pairs; once for each; STUDENT=TEACHER "
        "where the addresses differ",
    )
    p.add_argument("--teacher", default="", metavar="NAME", help="with --at: which of several teachers")
    p.add_argument("--batches", type=int, default=20, help="how many batches are looked at (20)")
    batch_options(parser, "DATASETS.TEST")
    last_options(parser, "directions", "the CSV and the picture")


def main(args: argparse.Namespace) -> None:
    """Print and write the report."""
    new_figure(1, 1)  # matplotlib's absence is to be known now, not after the work
    students = parse_students(args.student)
    cfg = config(args.config_file, args)
    data = check_data(cfg, args.data or cfg.DATASETS.TEST or cfg.DATASETS.TRAIN)
    model, labels = build_for_distances(cfg, args.at, args.teacher)
    rows = []
    for student, weights in students.items():
        load_student(model, student, weights)
        batches = labelled_batches(cfg, data, args.batches, seed=args.seed)
        distances = measure(
            model, tqdm(batches, desc=student, total=args.batches, disable=None), seed=args.seed
        )
        rows += [Row(student, labels[pair], distance) for pair, distance in distances.items()]
    rows.sort(key=lambda row: list(labels.values()).index(row.pair))  # stable: students stay in their order
    print(directions_text(rows))
    folder = Path(args.output)
    files = write_directions(rows, folder / "directions.csv"), folder / "directions.png"
    draw_directions(rows, files[1])
    print(f"Wrote {files[0]} and {files[1]}")
