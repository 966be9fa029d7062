"""Before hours of training: do the teachers of a config load, fit the student, and know more than it does?

det-distill teacher-check --config-file CONFIG [--images N] [KEY VALUE ...]
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from det_distill.cli.helping import CommandParser, add_overrides, command_parser
from det_distill.engine import load_config
from det_distill.teacher_check import check_teachers, summary


def parser(program: str = "teacher_check.py") -> CommandParser:
    """Return the command line."""
    p = command_parser(
        program,
        "See, before hours of training, whether the teachers of a distillation fit its student. Each line is one check "
        "with a verdict, ok, warning or error: that each teacher's config and weights load whole; that its classes are "
        "the student's in the same order; that both get the pixels they were trained with; that every address of every "
        "pair is there on both sides, with channels and strides that fit; how many times larger the teacher is; that "
        "one training step gives finite losses; and what they reach on the test set, beside the student if that "
        "is trained. All problems are listed, not only the first; with an error among them the exit status is 1.",
        "--config-file demo/student.yaml --images 50",
        usage=f"{program} [-h] --config-file FILE [options] [KEY VALUE ...]",
    )
    what = p.add_argument_group("what is checked")
    what.add_argument(
        "--config-file",
        required=True,
        metavar="FILE",
        help="of the distillation: a YAML file, or a name below configs/",
    )
    what.add_argument(
        "--student-weights",
        default="",
        metavar="FILE",
        help="the trained student, to compare with; default: the last checkpoint in OUTPUT_DIR, if there is one",
    )
    how = p.add_argument_group("how long it may take")
    how.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="measure on N images of each test set, taken evenly; 0: do not measure; default: all of them",
    )
    how.add_argument("--device", help="cpu, cuda, ...; default: MODEL.DEVICE")
    add_overrides(p)
    return p


def main(arguments: Sequence[str] | None = None, program: str = "teacher_check.py") -> None:
    """Check and print.

    Raises:
        SystemExit: with status 1 if there is an error.
    """
    args = parser(program).parse_args(arguments)
    if args.images is not None and args.images < 0:
        raise ValueError(f"--images {args.images}: must be at least 0")
    for logger in ("detectron2", "fvcore"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    cfg = load_config(args.config_file, [*args.opts, *(["MODEL.DEVICE", args.device] if args.device else [])])
    findings = []
    for finding in check_teachers(cfg, images=args.images, weights=args.student_weights):
        findings.append(finding)
        print(finding, flush=True)
    print(f"\n{summary(findings)}")
    if any(finding.level == "error" for finding in findings):
        sys.exit(1)
