"""Turn pretrained weights of torchvision, timm or detectron2's zoo into a start for a detector, with its config.

    det-distill import-backbone FILE --from torchvision --model resnet18 --output mine/R-18
    det-distill import-backbone R-50.pkl --from msra --model R-50 --output mine/R-50

The folder gets ``backbone.pth`` and ``config.yaml``, whose ``PIXEL_MEAN``, ``PIXEL_STD``, ``INPUT.FORMAT`` and
``STRIDE_IN_1X1`` are those of the weights. A file that is another network than ``--model`` is an error.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from detectron2.data.detection_utils import read_image

from det_distill.cli.helping import command_parser
from det_distill.export.backbones.importing import ImportedBackbone, import_backbone
from det_distill.export.backbones.pixels import RgbPixels
from det_distill.export.backbones.sources import SOURCES


def parser(program: str = "import_backbone.py") -> argparse.ArgumentParser:
    """Return the command line."""
    p = command_parser(
        program,
        "Turn pretrained weights of torchvision, timm or detectron2's zoo into the start of a detector. FOLDER gets "
        "backbone.pth and a config.yaml whose PIXEL_MEAN, PIXEL_STD, INPUT.FORMAT and STRIDE_IN_1X1 are those that the "
        "weights were trained with: no channels are swapped unnoticed. A file that is another network than --model is "
        "an error.",
        "resnet18.pth --from torchvision --model resnet18 --output mine/R-18",
        "R-50.pkl --from msra --model R-50 --output mine/R-50",
    )
    what = p.add_argument_group("what is imported")
    where = p.add_argument_group("where to, and how it is checked")
    pixels = p.add_argument_group("the pixels that the weights want")
    what.add_argument(
        "file", metavar="FILE", help="a state dict (.pth, .safetensors), or a .pkl of Caffe2's names"
    )
    what.add_argument(
        "--from", dest="source", required=True, choices=SOURCES, help="whose names the tensors have"
    )
    what.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="the network there: resnet18, vgg16_bn, wide_resnet50_2; any of timm's, with or without the tag of its "
        "weights; R-50 or R-101 of msra; X-101-32x8d of fair",
    )
    where.add_argument("--output", required=True, metavar="FOLDER", help="for backbone.pth and config.yaml")
    pixels.add_argument(
        "--format", default="", choices=("RGB", "BGR"), help="INPUT.FORMAT; default: that of the weights"
    )
    for name, meaning in (("mean", "mean"), ("std", "standard deviation")):
        pixels.add_argument(
            f"--{name}",
            nargs=3,
            type=float,
            metavar=("R", "G", "B"),
            help=f"the {meaning} that the weights were trained with, of pixels of 0 to 1; default: the usual one",
        )
    where.add_argument("--image", metavar="FILE", help="photo for the check of equal maps; default: noise")
    return p


def main(arguments: Sequence[str] | None = None, program: str = "import_backbone.py") -> None:
    """Import, and say what was written and how to use it."""
    p = parser(program)
    args = p.parse_args(arguments)
    if (args.mean is None) != (args.std is None):
        p.error("--mean and --std go together")
    pixels = None if args.mean is None else RgbPixels(tuple(args.mean), tuple(args.std))
    images = [torch.as_tensor(read_image(args.image, "RGB").copy()).permute(2, 0, 1)] if args.image else []
    done = import_backbone(
        *(args.file, args.source, args.model, args.output),
        input_format=args.format,
        pixels=pixels,
        images=images,
    )
    print(_report(done, args.source))


def _report(done: ImportedBackbone, source: str) -> str:
    model, size = done.keys["MODEL"], done.weights.stat().st_size
    check = "no network of the source is at hand to compare maps with"
    if done.difference is not None:
        check = f"largest difference to the maps of {source}'s own network {done.difference:.3g}"
        check += f" (accepted: {done.tolerance:.3g})"
    lines = [
        f"Wrote {done.weights} ({size / 1e6:.2f} MB): every tensor is the file's, bit for bit; {check}",
        f"Wrote {done.config}: a Faster R-CNN with {model['BACKBONE']['NAME']}, and how it wants its pixels:",
        f"  INPUT.FORMAT {done.keys['INPUT']['FORMAT']}, MODEL.PIXEL_MEAN {model['PIXEL_MEAN']}, "
        f"MODEL.PIXEL_STD {model['PIXEL_STD']} ({done.pixels_from})",
    ]
    if done.left_out:
        lines.append(f"Left out, as no backbone has them: {', '.join(done.left_out)}")
    lines.append(f'Build on it: _BASE_: "{done.config}" in a config, with NUM_CLASSES and DATASETS')
    return "\n".join(lines)
