"""Draw what a trained network finds in images and videos, and write it down as JSON.

det-distill predict INPUT [INPUT ...] --model MODEL --output FOLDER [--opts KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import torch

from det_distill.cli.helping import CommandParser, command_parser
from det_distill.predict import find_inputs, predict_files
from det_distill.predictors import GRAPHS, Predictor, load_predictor

INTERRUPTED = (
    "Interrupted. What was finished is in predictions.partial.jsonl; the same command goes on from there."
)


def parser(program: str = "predict.py") -> CommandParser:
    """Return the command line."""
    p = command_parser(
        program,
        "Find objects in photos, folders of photos or videos with a trained network, draw them with their names, and "
        "write every box to one JSON file. A classifier's five best classes stand below each picture.\n\n"
        "The folder of the results gets the pictures, videos as .mp4 without their sound, and predictions.json, which "
        "names the model, its classes and, for each image and frame, what was found. An interrupted command goes on "
        "where it stopped when it is called again. A file that cannot be read is told and left out; the exit status "
        "is then 1.",
        "photos/ --model output/student/model_final.pth --output found",
        "'trip/*.jpg' clip.mp4 --model exported/student --output found --threshold 0.7",
        usage=f"{program} [-h] INPUT [INPUT ...] --model MODEL --output FOLDER [options] [--opts KEY VALUE ...]",
    )
    what = p.add_argument_group("what looks at what")
    what.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="an image, a video, a folder of them, or a pattern in quotes; give them first",
    )
    what.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="folder of an export or of a run; or a checkpoint (.pth, .pkl, .safetensors), distilled or not; or a "
        f"graph ({', '.join(GRAPHS)}). Of graphs, .ts and .pt2 files are programs: open only files you trust",
    )
    results = p.add_argument_group("results")
    results.add_argument(
        "--output", required=True, metavar="FOLDER", help="for the results; created if need be"
    )
    what.add_argument(
        "--config-file",
        metavar="FILE",
        help="of a checkpoint, or a zoo name; default: config.yaml beside the checkpoint",
    )
    results.add_argument(
        "--threshold",
        type=float,
        metavar="SCORE",
        help="leave out boxes of a lower score, 0 to 1 (0.5); a classifier takes none",
    )
    results.add_argument("--classes", nargs="+", metavar="NAME", help="names of all classes, in their order")
    what.add_argument(
        "--device", help="cpu, cuda, ...; default: a GPU if there is one; an exported graph: cpu"
    )
    what.add_argument("--recursive", action="store_true", help="enter the sub-folders of folders, too")
    results.add_argument("--no-pictures", action="store_true", help="write JSON only")
    what.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="keys of the config with other values, behind all options: MODEL.ROI_HEADS.NMS_THRESH_TEST 0.4",
    )
    return p


def main(arguments: Sequence[str] | None = None, program: str = "predict.py") -> None:
    """Predict, and say what was written; leaves with status 1 if a file was left out."""
    args = (words := parser(program)).parse_args(arguments)
    if "" in args.inputs:  # such as a variable of the shell that is not set; it would be the current folder
        words.error("an INPUT is empty: name something (a dot, ., is the current folder)")
    output = Path(args.output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file: name a folder")
    inputs = find_inputs(args.inputs, output, recursive=args.recursive)
    predictor = _predictor(args)
    outcome = predict_files(
        predictor, inputs, output, threshold=_threshold(args), pictures=not args.no_pictures, say=_say
    )
    counted = f"images: {outcome.images}" + f", videos: {outcome.videos}" * bool(outcome.videos)
    _say(f"Wrote {outcome.file} ({counted})" + ("" if args.no_pictures else f" and the pictures in {output}"))
    if outcome.failed:
        reasons = "".join(f"\n  {path}: {why}" for path, why in outcome.failed.items())
        _say(f"{program}: {len(outcome.failed)} of {len(inputs)} inputs failed:{reasons}", sys.stderr)
        sys.exit(1)


def _threshold(args: argparse.Namespace) -> float:
    return 0.5 if args.threshold is None else float(args.threshold)


def _predictor(args: argparse.Namespace) -> Predictor:
    device = args.device
    if device is None:
        is_graph = Path(args.model).suffix in GRAPHS
        device = "cuda" if torch.cuda.is_available() and not is_graph else "cpu"
    predictor = load_predictor(args.model, args.config_file, opts=args.opts, device=device)
    if args.classes:
        predictor.rename(args.classes)
    if predictor.kind != "detector" and args.threshold is not None:
        raise ValueError(
            f"{predictor.file} is a classifier, which has no boxes to leave out: omit --threshold"
        )
    if predictor.kind == "detector" and _threshold(args) < predictor.score_threshold:
        _say(
            f"{predictor.file} itself leaves out scores below {predictor.score_threshold:g}, so --threshold "
            f"{_threshold(args):g} shows no more; a checkpoint's is MODEL.ROI_HEADS.SCORE_THRESH_TEST "
            "(RetinaNet: MODEL.RETINANET.SCORE_THRESH_TEST), to be set with --opts"
        )
    return predictor


def _say(line: str, stream: TextIO | None = None) -> None:
    """Print, also file names that are no text."""
    print(line.encode(errors="backslashreplace").decode(), file=stream, flush=True)
