"""Write the student of a run as files of its own: detectron2 checkpoints, safetensors, ONNX and others.

    python tools/export_student.py --config-file CONFIG --output FOLDER [--weights FILE] [--to FORMAT ...]
        [--evaluate [IMAGES]] [KEY VALUE ...]

CONFIG is the run's own, of a detector or a classifier, distilled or not; no teacher is built. Every file is loaded
again and compared with the student on real images of several sizes; if one differs by more than is accepted, nothing is
written, and an earlier export stays as it was. card.md says what the student is, for whoever gets the folder.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from det_distill.cli.helping import add_overrides, command_parser
from det_distill.engine import load_config
from det_distill.export import StudentExport, export_student, start_of_a_detector, usage
from det_distill.export.formats import DEFAULT_FORMATS, FORMATS, writer_of
from det_distill.export.images import read_as_in_a_test
from det_distill.export.student import ALL, chosen_formats


def parser(program: str = "export_student.py") -> argparse.ArgumentParser:
    """Return the command line."""
    p = command_parser(
        program,
        "Take the student of a run away, of a detector or a classifier, distilled or not, as files for its next home: "
        "a plain detectron2 checkpoint, safetensors, its backbone for torchvision or timm, ONNX, TorchScript, 8 bits. "
        "No teacher is needed. Every file is loaded again and compared with the student on real images of several "
        "sizes; if one differs by more than is accepted, nothing is written, and an earlier export stays as it was. "
        "card.md says what the student is, for whoever gets the folder.",
        "--config-file output/mine/config.yaml --output exported",
        "--config-file output/mine/config.yaml --output exported --to pth onnx int8 --evaluate 200",
        "--to",
        usage=f"{program} [-h] --config-file FILE --output FOLDER [options] [KEY VALUE ...]",
    )
    what = p.add_argument_group("what is exported")
    where = p.add_argument_group("as what, and where to")
    how = p.add_argument_group("how it is checked")
    what.add_argument("--config-file", metavar="FILE", help="the run's config, or a zoo name")
    what.add_argument("--weights", metavar="FILE", help="its checkpoint; default: OUTPUT_DIR/model_final.pth")
    where.add_argument("--output", metavar="FOLDER", help="created, or an earlier export replaced")
    where.add_argument(
        "--to",
        nargs="*",
        metavar="FORMAT",
        help=f"what to write; default: {' '.join(DEFAULT_FORMATS)}; {ALL}: whatever fits the network; without a name "
        f"it says what there is: {', '.join(FORMATS)}",
    )
    how.add_argument(
        "--evaluate",
        nargs="?",
        const=ALL,
        metavar="IMAGES",
        help="measure the AP, or accuracy, of every file on the test data, or on so many images of it",
    )
    how.add_argument(
        "--image",
        metavar="FILE",
        action="append",
        default=[],
        help="photo to compare outputs on, several times if you like; default: photos of DATASETS.TEST, or noise",
    )
    add_overrides(p)
    return p


def main(arguments: Sequence[str] | None = None, program: str = "export_student.py") -> None:
    """Export, and say what was written and how to use it."""
    p = parser(program)
    args = p.parse_args(arguments)
    _give_back(args)
    if args.to == []:
        print(_listing())
        return
    if not args.config_file or not args.output:
        p.error("--config-file and --output are needed")
    formats = DEFAULT_FORMATS if args.to is None else args.to
    chosen_formats(formats)
    evaluate = None if args.evaluate is None else _count(args.evaluate)
    cfg = load_config(args.config_file, args.opts)
    weights = args.weights or os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    images = [read_as_in_a_test(file, cfg) for file in args.image]
    export = export_student(
        cfg, weights, args.output, formats=formats, images=images, evaluate=evaluate, say=_say
    )
    print(_report(export))


def _say(line: str) -> None:
    print(line, flush=True)


def _give_back(args: argparse.Namespace) -> None:
    """Return to the overrides what ``--to`` and ``--evaluate`` took of them; names of keys have capitals."""
    taken: list[str] = []
    if args.to:
        first = next((i for i, name in enumerate(args.to) if not name.islower()), len(args.to))
        args.to, taken = args.to[:first], args.to[first:]
        if taken and not args.to:
            args.to = None
    if args.evaluate is not None and args.evaluate != args.evaluate.lower():
        args.evaluate, taken = ALL, [*taken, args.evaluate]
    args.opts = taken + args.opts


def _count(text: str) -> int:
    """How many images; 0 for all."""
    if text == ALL:
        return 0
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"--evaluate {text!r}: give a number of images, or nothing for all of them")
    return int(text)


def _listing() -> str:
    """The formats, with the first line of what their writers say; or what they need."""
    lines = []
    for name in FORMATS:
        try:
            what = (writer_of(name).__doc__ or "").split("\n")[0].replace("``", "").removeprefix("Write ")
        except ImportError as error:
            what = f"not available: {error}"
        lines.append(f"  {name:16}{what}")
    return "\n".join(
        [
            "Formats for --to:",
            *lines,
            f"  {ALL:16}whatever of these can hold the network.",
            "card.md and config.yaml are always written; `--to card` writes nothing else.",
            f"Without --to: {' '.join(DEFAULT_FORMATS)}",
        ]
    )


def _report(export: StudentExport) -> str:
    lines = [f"Wrote to {export.folder}:"]
    checked = {file.file: file for file in export.written}
    width = max(map(len, export.sizes))
    for name, size in export.sizes.items():
        check = ""
        if name in checked:
            file = checked[name]
            check = f"  loaded again: largest output difference {file.difference:g} (accepted: {file.tolerance:g})"
        lines.append(f"  {name:{width}}{size / 1e6:9.2f} MB{check}")
    lines.append(f"Outputs were compared on {export.images}.")
    lines += [f"Left out: {name}: {why}" for name, why in export.left_out.items()]
    if export.measurement is not None:
        lines += ["", export.measurement.text(), ""]
    if how := usage(export):
        lines += ["Use it in Python:", *(f"  {line}" for line in how)]
    if start := start_of_a_detector(export):
        lines += ["Start a detector from its backbone:", *(f"  {line}" for line in start)]
    return "\n".join(lines)
