"""The fenced blocks of README.md and other documents, and how each kind is executed.

Blocks run in the order of the document, inside a folder where tiny things stand in for what the reader has (see
`stand_ins`): a data set of six pictures of 64x80, teachers of a sixteenth of the usual width, links to this
repository's tools. YAML files are written as the document has them and then made small by `SMALL`. Commands run as
they are, but for what `run_command` says.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest
import torchvision
import yaml
from detectron2.engine import default_argument_parser
from PIL import Image

from det_distill.cli.main import main as det_distill_main
from det_distill.data.voc import load_voc
from det_distill.engine import load_config
from det_distill.recipes import load_recipe
from det_distill.tasks import task_of
from tests.tiny import CLASSES, detector_cfg, save_teacher, write_image_folder, write_voc

ROOT = Path(__file__).resolve().parents[1]

SMALL = {
    "MODEL": {
        "FPN": {"OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
        "RPN": {"PRE_NMS_TOPK_TRAIN": 100, "PRE_NMS_TOPK_TEST": 50, "POST_NMS_TOPK_TRAIN": 50},
        "ROI_HEADS": {"NUM_CLASSES": len(CLASSES), "BATCH_SIZE_PER_IMAGE": 16},
        "ROI_BOX_HEAD": {"FC_DIM": 24, "POOLER_RESOLUTION": 3},
    },
    "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64},
    "SOLVER": {"IMS_PER_BATCH": 2, "BASE_LR": 1e-4, "MAX_ITER": 3, "STEPS": [2], "WARMUP_ITERS": 0},
    "DATALOADER": {"NUM_WORKERS": 0},
    "DISTILL": {"CALIBRATION_BATCHES": 2},
}
SMALL_CLASSIFIER = {
    "MODEL": {
        "RESNETS": {"DEPTH": 50, "STEM_OUT_CHANNELS": 8, "WIDTH_PER_GROUP": 4, "RES2_OUT_CHANNELS": 16},
        "CLASSIFIER": {"NUM_CLASSES": len(CLASSES), "EMBEDDING_DIM": 6},
    },
    "INPUT": {"CLASSIFICATION": {"RESIZE": 0, "CROP": 8, "PAD": 1}},
    "SOLVER": {"IMS_PER_BATCH": 8, "BASE_LR": 1e-4, "MAX_ITER": 2, "STEPS": [1], "WARMUP_ITERS": 0},
    "DATALOADER": {"NUM_WORKERS": 0},
}
LAZY_SMALL = [
    "model.student.backbone.out_channels=24",
    "model.student.proposal_generator.head.in_channels=24",
    "model.student.roi_heads.num_classes=2",
    "model.student.roi_heads.box_head.fc_dims=[24]",
    "model.student.roi_heads.box_head.input_shape.channels=24",
    "model.student.roi_heads.box_predictor.input_shape.channels=24",
    "model.pairs.box.HASHES=64",
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.device=cpu",
    "train.max_iter=2",
]


class Block(NamedTuple):
    """A fenced block: the document's name, the line of its fence, the language after the fence, the text."""

    document: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that the block's first line names as a comment; "" if it names none."""
        found = re.match(r"(?:#|<!--) (\S+\.(?:py|yaml|md))\b", self.text)
        return found.group(1) if found else ""

    @property
    def commands(self) -> list[str]:
        """The lines of a bash block, joined where one ends in a backslash."""
        return self.text.replace("\\\n", " ").strip().split("\n")


def blocks_of(document: str) -> list[Block]:
    """Every fenced block of a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.finditer(r"^ *```(\S*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [Block(document, text.count("\n", 0, m.start()) + 1, m.group(1), m.group(2)) for m in found]


def stand_ins(folder: Path) -> Path:
    """Put what the documents expect to be there into a folder."""
    for name in ("tools", "configs", "benchmarks", "third_party", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "mine").mkdir()
    for name in ("teacher", "second"):
        save_teacher(folder / "mine", detector_cfg(width=8, fpn=24), name)
    data = write_voc(folder / "datasets/mine")
    for split in ("trainval", "test"):
        (data / f"ImageSets/Main/{split}.txt").write_text((data / "ImageSets/Main/all.txt").read_text())
    Image.open(data / "JPEGImages/im000.jpg").save(folder / "photo.jpg")
    _write_coco(data, folder / "datasets/mine_coco")
    for split in ("train", "test"):
        for name in ("mine_birds", "things"):
            write_image_folder(folder / "datasets" / name / split)
    return folder


def _write_coco(voc: Path, folder: Path) -> None:
    records = load_voc(voc, "all")
    images = [{**r, "id": i, "file_name": Path(r["file_name"]).name} for i, r in enumerate(records)]
    annotations = [
        {"image_id": image["id"], "category_id": a["category_id"] + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for image in images
        for a in image.pop("annotations")
        for x0, y0, x1, y1 in [a["bbox"]]
    ]
    content = {
        "images": images,
        "annotations": [{**a, "id": i, "iscrowd": 0} for i, a in enumerate(annotations)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
    }
    folder.mkdir()
    (folder / "images").symlink_to(voc / "JPEGImages")
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(json.dumps(content))


def write_yaml(block: Block) -> None:
    """Write a YAML block to the file it names, see that it is read as it is, then make it small."""
    assert block.file, (
        f"{block.document}:{block.line}: a yaml block begins with a comment that names its file"
    )
    file = Path(block.file)
    file.write_text(block.text)
    content = yaml.safe_load(block.text)
    if "steps" in content:
        load_recipe(block.file)
        return
    detector = task_of(load_config(block.file)).finds_boxes
    small = SMALL if detector else SMALL_CLASSIFIER
    if (
        content.get("MODEL", {}).get("RESNETS", {}).get("DEPTH") == 18
    ):  # small enough, and it goes into a detector
        small = {**small, "MODEL": {k: v for k, v in small["MODEL"].items() if k != "RESNETS"}}
    file.write_text(yaml.safe_dump(_merged(content, small)))


def _merged(content: dict, small: dict) -> dict:
    both = {k: _merged(content.get(k, {}), v) if isinstance(v, dict) else v for k, v in small.items()}
    return {**content, **both}


def run_tool(arguments: list[str]) -> None:
    """Run a Python file with arguments in this process, as ``python FILE ...`` would."""
    with mock.patch.object(sys, "argv", arguments):
        runpy.run_path(arguments[0], run_name="__main__")


def run_command(command: str) -> None:
    """Execute one line of a bash block.

    Not executed as they stand: ``make`` (its target has to exist: ``make -n``), ``pip install`` (the folder has to be
    a Python project with that extra; it would need the network), training on several GPUs and TensorBoard (arguments,
    or presence), the benchmark scripts that take hours (``--help``), the analyses (two iterations or batches),
    the download of ImageNet weights (random ones).
    """
    words = shlex.split(command)
    runner = next((run for begin, run in RUNNERS.items() if command.startswith(begin)), None)
    assert runner, f"tests/documents.py does not know how to execute: {command}"
    runner(words)


def _train(words: list[str]) -> None:
    if "--num-gpus" in words:
        arguments = default_argument_parser().parse_args(words[2:])
        load_config(arguments.config_file, arguments.opts)
    else:
        run_tool(words[1:])


def _analyse(words: list[str]) -> None:
    few = {"reconstruction": ["--iterations", "2"], "directions": ["--batches", "2"], "detections": []}
    run_tool([*words[1:], *few[words[2]]])


def _console(words: list[str]) -> None:
    with mock.patch.object(sys, "argv", words), contextlib.suppress(SystemExit):
        det_distill_main()


def _make(words: list[str]) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, env=clean, check=True, stdout=subprocess.DEVNULL)


def _pip_install(words: list[str]) -> None:
    for project in words[2:]:
        folder, _, extra = project.rstrip("]").partition("[")
        text = (Path(folder) / "pyproject.toml").read_text()
        assert "[project]" in text and (not extra or f"\n{extra} = [" in text)


def _python_code(words: list[str]) -> None:
    weights = torchvision.models.get_model_weights("resnet18")
    code = words[2]
    for name in weights.__members__:
        code = code.replace(f"weights='{name}'", "weights=None")
    assert code != words[2], "the weights are not torchvision's"
    exec(code, {})


def _help(words: list[str]) -> None:
    done = subprocess.run([sys.executable, words[1], "--help"], check=True, capture_output=True, text=True)
    assert all(option in done.stdout for option in words if option.startswith("--"))


def _installed(words: list[str]) -> None:
    assert importlib.util.find_spec(words[0])


RUNNERS: dict[str, Callable[[list[str]], None]] = {
    "make": _make,
    "pip install ": _pip_install,
    ". .venv/bin/activate": lambda words: None,
    'python -c "import torch, torchvision as tv; ': _python_code,
    "python tools/train_net.py ": _train,
    "python tools/analyze.py ": _analyse,
    "det-distill ": _console,
    "python tools/": lambda words: run_tool(words[1:]),
    "python .venv/share/detectron2/tools/lazyconfig_train_net.py ": lambda words: run_tool(
        words[1:] + LAZY_SMALL
    ),
    "python .venv/share/detectron2/tools/": lambda words: run_tool(words[1:]),
    "python benchmarks/": _help,
    "tensorboard ": _installed,
}


def run_python(block: Block) -> None:
    """Execute a Python block: a new module, an addition to one, a test, or a script."""
    code = compile(block.text, f"{block.document}:{block.line}", "exec")
    if block.file.startswith("det_distill/"):
        name = block.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        module = sys.modules.setdefault(name, types.ModuleType(name))
        if not block.file.endswith("/__init__.py"):
            module.__package__ = name.rpartition(".")[0]
        exec(code, vars(module))
        return
    names: dict = {"__name__": "block"}
    exec(code, names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert bool(tests) == block.file.startswith("tests/")
    for test in tests:
        test()


def _addition(block: Block) -> None:
    """Text for another document, which the first line names; who tests that document reads it."""
    assert (ROOT / block.file).is_file(), f"{block.document}:{block.line}: an addition to which document?"


def config_tables(text):
    """Key -> default of each table whose header is key, default, meaning."""
    tables = re.findall(r"\| key \| default \| meaning \|\n\| --- \| --- \| --- \|\n((?:\|.*\n)+)", text)
    rows = [re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| .+ \|$", table, re.MULTILINE) for table in tables]
    assert [len(found) for found in rows] == [table.count("\n") for table in tables]
    return [{key: yaml.safe_load(default) for key, default in found} for found in rows]


def execute(block: Block) -> None:
    """Execute a block, or fail if nobody said how."""
    if block.language == "bash":
        for command in block.commands:
            run_command(command)
    elif block.language in ("yaml", "python", "markdown"):
        {"yaml": write_yaml, "python": run_python, "markdown": _addition}[block.language](block)
    else:
        pytest.fail(
            f"{block.document}:{block.line}: a block of {block.language or 'no language'} is not executed"
        )


@contextlib.contextmanager
def unchanged(*mappings: dict) -> Iterator[None]:
    """Restore mappings at the end, whatever was put into them."""
    with contextlib.ExitStack() as stack:
        for mapping in mappings:
            stack.enter_context(mock.patch.dict(mapping))
        yield
