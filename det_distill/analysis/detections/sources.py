"""Where the detections of a report come from: a network that is run now, or a file of finished ones."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn
from tqdm import tqdm

from ... import model_zoo
from ...config import get_cfg, load_teacher, merge_file
from ...data.evaluation_loader import build_test_loader
from ...evaluation.columns import Detections
from ...evaluation.cost import ModelCost, model_cost
from ...evaluation.detection import DetectionEvaluator
from ...evaluation.detection_file import read_detections
from ...targets import class_count, is_detector
from ..figures import COLOURS
from ..named import parse_networks, parse_students

__all__ = ["Found", "Source", "find_all", "parse_sources"]

_FORM = "NAME=CONFIG:WEIGHTS or NAME=FILE.json"


@dataclass(frozen=True)
class Source:
    """A detector as it is named on a command line: by config and weights, or by a file of its detections."""

    name: str
    is_teacher: bool
    config: str = ""
    weights: str = ""
    file: str = ""


@dataclass(frozen=True)
class Found:
    """What a detector finds on a data set.

    Attributes:
        source: the detector.
        detections: on all images of the data set.
        cost: None where there was no network to measure.
        made_from: a file or URL, for readers.
    """

    source: Source
    detections: Detections
    cost: ModelCost | None
    made_from: str


def parse_sources(teachers: Sequence[str], students: Sequence[str]) -> list[Source]:
    """Read ``NAME=CONFIG:WEIGHTS`` and ``NAME=FILE.json``; teachers come first.

    Raises:
        ValueError: another form, a name that comes twice, no teacher or no student, or more detectors than a reader
            can tell apart.
    """
    found = [_parse(text, True) for text in teachers] + [_parse(text, False) for text in students]
    names = [source.name for source in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two detectors are named {twice[0]!r}: the report could not tell them apart")
    if not teachers or not students:
        raise ValueError(f"a report compares a teacher with students: --teacher {_FORM} --student {_FORM}")
    if len(found) > len(COLOURS):
        raise ValueError(f"{len(found)} detectors are too many for one page: at most {len(COLOURS)}")
    return found


def _parse(text: str, is_teacher: bool) -> Source:
    name, equals, rest = text.partition("=")
    if not (name.strip() and equals and rest):
        raise ValueError(f"{text!r} is not of the form {_FORM}")
    if rest.endswith(".json"):
        return Source(name, is_teacher, file=next(iter(parse_students([text]).values())))
    network = parse_networks([text])[0]
    return Source(name, is_teacher, config=network.config, weights=network.weights)


def find_all(
    sources: Iterable[Source],
    cfg: CfgNode,
    data: str,
    folder: Path,
    *,
    cost: bool = True,
    seconds: float = 3.0,
) -> list[Found]:
    """Read the files, run the networks; what is wrong with any of them is told before the first one runs.

    Each network gets images as its own config's tests do; that of a LazyConfig as those of `cfg`.

    Args:
        sources: the detectors.
        cfg: says device, workers of the loader, and the image size of LazyConfigs.
        data: name of a registered data set.
        folder: the detections of each network are written to ``<folder>/<its name>.json``.
        cost: measure what the networks cost.
        seconds: how long the speed of each is measured.

    Raises:
        FileNotFoundError: no such config, weights or file.
        ValueError: weights that do not fit, a network that is no detector or has other classes than the data, or a
            file that is not in COCO's result format.
    """
    sources = list(sources)
    read = {s.name: read_detections(s.file, data) for s in sources if s.file}
    networks = {s.name: _network(s, data) for s in sources if not s.file}
    names = _file_names(networks)
    found = []
    for source in sources:
        if source.file:
            found.append(Found(source, read[source.name], None, source.file))
            continue
        model = networks.pop(source.name).to(cfg.MODEL.DEVICE)
        own = _test_config(source, cfg, model)
        file = _run(model, own, data, folder / names[source.name], source.name)
        price = _cost(model, own, data, seconds) if cost else None
        found.append(Found(source, read_detections(file, data), price, source.weights))
        del model
    return found


def _network(source: Source, data: str) -> nn.Module:
    model = load_teacher(source.config, source.weights, name=source.name).model
    classes = list(MetadataCatalog.get(data).thing_classes)
    if not is_detector(model):
        raise ValueError(f"{source.name} ({source.config}) is no detector: it finds no boxes to report on")
    count = class_count(model)
    if count is not None and count != len(classes):
        raise ValueError(
            f"{source.name} ({source.config}) knows {count} classes, but {data} has {len(classes)}: "
            f"{', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}"
        )
    return model


def _file_names(names: Iterable[str]) -> dict[str, str]:
    """A file for each detector whatever it is called."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._") or "detector"
        taken = {file.casefold() for file in found.values()}
        while f"{plain}.json".casefold() in taken:
            plain += "_"
        found[name] = f"{plain}.json"
    return found


def _test_config(source: Source, cfg: CfgNode, model: nn.Module) -> CfgNode:
    """The config that says how this network's test images are prepared."""
    path = model_zoo.find_config(source.config)
    own = cfg.clone() if path.endswith(".py") else get_cfg()
    own.defrost()
    if path.endswith(".py"):
        own.INPUT.FORMAT = getattr(model, "input_format", own.INPUT.FORMAT)
    else:
        merge_file(own, path)
    own.DATALOADER.NUM_WORKERS = cfg.DATALOADER.NUM_WORKERS
    own.MODEL.LOAD_PROPOSALS = False
    return own


def _run(model: nn.Module, cfg: CfgNode, data: str, file: Path, name: str) -> Path:
    loader: Any = build_test_loader(cfg, data)
    model.eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        evaluator = DetectionEvaluator(data, output_dir=folder)
        for batch in tqdm(loader, desc=name, unit="image", disable=None):
            evaluator.process(batch, model(batch))
        evaluator.evaluate()
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(folder) / "coco_instances_results.json", file)
    return file


def _cost(model: nn.Module, cfg: CfgNode, data: str, seconds: float) -> ModelCost:
    """Of the first image of the data, as this network gets it."""
    image = next(iter(build_test_loader(cfg, data)))[0]["image"]
    return model_cost(model, *image.shape[-2:], image=image, seconds=seconds)
