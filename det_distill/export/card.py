"""The export card: a page that tells a stranger what the student in a folder is, and how it is used."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from detectron2.config import CfgNode

from ..classification import ImageClassifier, MetricLearner
from ..evaluation.cost import ModelCost
from .formats import ExportRequest
from .lineage import recorded_scores, taught_by, told
from .plain_config import builds, needs_det_distill
from .plain_files import versions
from .result import StudentExport
from .tables import markdown_table
from .usage import usage

__all__ = ["CARD", "CardFacts", "card", "sha256"]

CARD = "card.md"
_SHOWN_CLASSES = 100


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        request: the student.
        weights: the checkpoint that it was loaded from.
        export: its files, but the card.
        digests: file name -> SHA-256, of every one of these.
        cost: of the student on one of the request's images.
    """

    request: ExportRequest
    weights: str
    export: StudentExport
    digests: Mapping[str, str]
    cost: ModelCost


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def card(facts: CardFacts) -> str:
    """Return the page, in Markdown."""
    plain = facts.request.plain
    sections = [
        f"# {_kind(plain).capitalize()}: {plain.MODEL.META_ARCHITECTURE} on {_network(facts.request.cfg)}",
        _what(facts),
        "## How it was trained",
        "\n".join(taught_by(facts.request.cfg, facts.weights)),
        "## How good it is",
        _precision(facts),
        "## What it costs",
        _cost(facts),
        "## Files",
        _files(facts),
        "## How it is used",
        _use(facts),
        "## Licence",
        "Not stated here. The weights may be bound by the licences of the training data, of the teacher's and of any "
        "pretrained weights: find them out and write them down here before you pass the files on.",
        "## Made with",
        _versions(),
    ]
    return "\n\n".join(sections) + "\n"


def _kind(plain: CfgNode) -> str:
    architecture = plain.MODEL.META_ARCHITECTURE
    if builds(architecture, MetricLearner):
        return "metric learner"
    return "image classifier" if builds(architecture, ImageClassifier) else "object detector"


def _network(cfg: CfgNode) -> str:
    """The kind and size of the backbone, as far as its name and the config tell them: "timm lcnet_050 with FPN"."""
    name = str(cfg.MODEL.BACKBONE.NAME)
    sections = [
        key
        for key, node in cfg.MODEL.items()
        if isinstance(node, CfgNode) and _stem(key) in name and key not in ("BACKBONE", "FPN")
    ]
    known = max(sections, key=len, default="")
    sizes = [str(cfg.MODEL[known][key]) for key in ("NAME", "DEPTH") if known and cfg.MODEL[known].get(key)]
    network = " ".join([_stem(known), *sizes]) if sizes else name
    return f"{network} with FPN" if sizes and "_fpn_" in name else network


def _stem(section: str) -> str:
    return section.lower().removesuffix("s")


def _what(facts: CardFacts) -> str:
    request, plain = facts.request, facts.request.plain
    names = request.classes[:_SHOWN_CLASSES]
    more = len(request.classes) - len(names)
    rest = f" and {more} more" if more else ""
    listed = ", ".join(names) + rest
    mean, std = (", ".join(f"{x:g}" for x in v) for v in (plain.MODEL.PIXEL_MEAN, plain.MODEL.PIXEL_STD))
    lines = [
        f"- What it is: {_kind(plain)}, architecture `{plain.MODEL.META_ARCHITECTURE}`, backbone "
        f"{_network(request.cfg)} (`{plain.MODEL.BACKBONE.NAME}`), {facts.cost.parameters / 1e6:.2f} million "
        "parameters",
        f"- Classes ({len(request.classes)}): {listed}",
        f"- Images: channels in the order {plain.INPUT.FORMAT}, pixels 0 to 255, minus ({mean}), divided by ({std}); "
        f"{_resizing(plain)}",
        "- Needs: "
        + (
            "det_distill with detectron2 (it has parts that detectron2 alone lacks)"
            if needs_det_distill(plain)
            else "detectron2 alone"
        ),
        f"- Taken from: `{Path(facts.weights).name}`",
    ]
    return "\n".join(lines)


def _resizing(plain: CfgNode) -> str:
    if builds(plain.MODEL.META_ARCHITECTURE, ImageClassifier):
        node = plain.INPUT.CLASSIFICATION
        shorter = f"the shorter side resized to {node.RESIZE}" if node.RESIZE else "not resized"
        return f"{shorter}, {f'the middle {node.CROP} x {node.CROP} pixels' if node.CROP else 'not cropped'}"
    return (
        f"the shorter side resized to {plain.INPUT.MIN_SIZE_TEST} pixels, the longer one to at most "
        f"{plain.INPUT.MAX_SIZE_TEST}"
    )


def _precision(facts: CardFacts) -> str:
    scores, measurement = recorded_scores(facts.weights), facts.export.measurement
    tests = ", ".join(facts.request.cfg.DATASETS.TEST) or "its test data"
    recorded = f"What the training measured when it ended, on {tests}, in percent: {told(scores)}."
    if measurement is not None:
        parts = [measurement.markdown()]
        return "\n\n".join([*parts, recorded] if scores and not measurement.whole else parts)
    if scores:
        return (
            f"{recorded} The exported files were not measured themselves; export with `--evaluate` for that."
        )
    return "Not measured: export with `--evaluate` to measure every file on the test data."


def _cost(facts: CardFacts) -> str:
    cost = facts.cost
    threads = f"{cost.threads} thread{'s' * (cost.threads != 1)}"
    return (
        f"On an image of {cost.height} x {cost.width} pixels (height x width): {cost.giga_multiply_adds:.3g} GFLOPs "
        f"(1 = 1e9 multiply-adds), {1000 / cost.images_per_second:.1f} ms (PyTorch, float32, one image at a time, "
        f"{_processor()}, {threads}; resizing not included)."
    )


def _processor() -> str:
    """The name of this machine's processor, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or "CPU"


def _files(facts: CardFacts) -> str:
    by_name = {file.file: file for file in facts.export.written}
    cells = [["file", "MB", "difference", "accepted", "what it is"]]
    for name, size in facts.export.sizes.items():
        file = by_name.get(name)
        what = file.what if file else "its config" if name == "config.yaml" else "belongs to the others"
        checked = [f"{file.difference:.2g}", f"{file.tolerance:.2g}"] if file else ["", ""]
        cells.append([f"`{name}`", f"{size / 1e6:.2f}", *checked, what])
    parts = [
        markdown_table(cells, texts=(0, 4)),
        "Difference: the largest between any output of the student and of the file, loaded again, on "
        f"{facts.export.images}.",
    ]
    if facts.export.left_out:
        reasons = "\n".join(f"- {name}: {reason}" for name, reason in facts.export.left_out.items())
        parts.append(f"Formats that this student could not be written in:\n\n{reasons}")
    digests = "\n".join(f"{digest}  {name}" for name, digest in facts.digests.items())
    parts.append(f"SHA-256, for `sha256sum --check`:\n\n```\n{digests}\n```")
    return "\n\n".join(parts)


def _use(facts: CardFacts) -> str:
    code = "\n".join(usage(facts.export, here=True))
    parts = [f"In this folder, in Python:\n\n```python\n{code}\n```"] if code else []
    files = [file.file for file in facts.export.written if file.detects]
    if files:
        parts.append(
            f"Where det_distill is installed, any of {', '.join(f'`{f}`' for f in files)} shows what it sees:\n\n"
            f"```\ndet-distill predict --model {files[0]} --output found photo.jpg\n```"
        )
    return "\n\n".join(parts) or "These files hold no network that predicts: they start another one."


def _versions() -> str:
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    listed = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{listed}, Python {platform.python_version()}, on {made} (UTC)."
