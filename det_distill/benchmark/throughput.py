"""How fast a training loader is, alone and with the training that it feeds, in images per second."""

from __future__ import annotations

import csv
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from ..tasks import task_of
from ..timing import elapsed
from .steps import Batch, Training, build_distiller, build_plain

__all__ = ["Rates", "Throughput", "measure_throughput"]


@dataclass(frozen=True)
class Rates:
    """What one loader was measured at, once.

    Attributes:
        data: images per second of the loader alone.
        step: of training alone, on batches that lie ready on the device.
        both: of training on the loader's batches.
        waiting: the share of that time in which training waited for its next batch. Work that the loader leaves to a
            GPU counts as training; how far `both` stays below `step` has everything in it.
    """

    data: float
    step: float
    both: float
    waiting: float


@dataclass(frozen=True)
class Throughput:
    """The rates of one or several loaders, measured in turn.

    Attributes:
        setting: what was run where: texts and numbers by name.
        rounds: loader -> its rates in each round.
    """

    setting: Mapping[str, Any]
    rounds: Mapping[str, Sequence[Rates]]

    def medians(self) -> dict[str, Rates]:
        """Return loader -> median of each rate over the rounds."""
        return {name: _median(rounds) for name, rounds in self.rounds.items()}

    def ratios(self) -> dict[str, Rates]:
        """Return for each loader behind the first one "loader / first" -> median over the rounds of each one's ratio.

        Of `waiting` the difference, since the first may not wait at all.
        """
        first, *others = self.rounds
        return {
            f"{name} / {first}": _median(
                [_ratio(a, b) for a, b in zip(self.rounds[name], self.rounds[first], strict=True)]
            )
            for name in others
        }

    def table(self) -> str:
        """Return the lines that the tool prints."""
        lines = [
            ", ".join(f"{k} {v}" for k, v in self.setting.items()),
            f"{'images per second':24}{'data alone':>12}{'step alone':>12}{'together':>12}{'waiting for data':>18}",
        ]
        for name, rates in self.medians().items():
            numbers = "".join(f"{value:12.1f}" for value in (rates.data, rates.step, rates.both))
            lines.append(f"{name:24}{numbers}{100 * rates.waiting:16.1f} %")
        for name, ratios in self.ratios().items():
            lines.append(f"{name:24}{ratios.data:12.3f}{ratios.step:12.3f}{ratios.both:12.3f}")
        return "\n".join(lines)

    def write_json(self, path: str) -> None:
        """Write everything, single rounds too."""
        derived = {"medians": self.medians(), "ratios": self.ratios()}
        plain = {
            key: {name: asdict(rates) for name, rates in by_name.items()} for key, by_name in derived.items()
        }
        Path(path).write_text(json.dumps({**asdict(self), **plain}, indent=1) + "\n")

    def write_csv(self, path: str) -> None:
        """Write a header and a row for each loader: settings, medians of images per second, share of waiting."""
        rows = [
            {
                **self.setting,
                "loader": name,
                **{f"{part} images/s": round(getattr(rates, part), 1) for part in ("data", "step", "both")},
                "waiting": round(rates.waiting, 4),
            }
            for name, rates in self.medians().items()
        ]
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def _median(rounds: Sequence[Rates]) -> Rates:
    columns = zip(*(asdict(rates).values() for rates in rounds), strict=True)
    return Rates(*map(statistics.median, columns))


def _ratio(a: Rates, b: Rates) -> Rates:
    return Rates(a.data / b.data, a.step / b.step, a.both / b.both, a.waiting - b.waiting)


def measure_throughput(
    cfg: CfgNode, loaders: Sequence[str] = (), *, iterations: int = 10, rounds: int = 3, warm_up: int = 0
) -> dict[str, list[Rates]]:
    """Measure one loader after the other, round by round.

    Args:
        cfg: of any training, distilled or not. The learning rate is 0, and every pair counts from the start.
        loaders: of a classifier: "memory", "workers", "workers:2" (of so many processes); none: the config's.
        iterations: batches that are timed for each rate.
        rounds: how often all is measured.
        warm_up: batches before the first round, which do not count: a whole pass for the images of a loader that
            keeps them. Before each rate there are some in any case, more than the loader has ready.

    Returns:
        Loader -> its rates in each round.

    Raises:
        ValueError: no training data, an unknown loader, or counts that make no sense.
    """
    if min(iterations, rounds) < 1 or warm_up < 0:
        raise ValueError(
            f"{iterations} iterations in {rounds} rounds after {warm_up}: measure at least one, once"
        )
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name training data")
    streams = {name: _Stream(one) for name, one in _configs(cfg, loaders).items()}
    batches = next(iter(streams.values())).take(2)
    training = Training(_model(cfg, batches), cfg)
    for stream in streams.values():
        stream.take(warm_up)
    found: dict[str, list[Rates]] = {name: [] for name in streams}
    for _ in range(rounds):
        for name, stream in streams.items():
            found[name].append(_rates(stream, training, torch.device(cfg.MODEL.DEVICE), iterations))
    return found


def _model(cfg: CfgNode, batches: Sequence[Batch]) -> nn.Module:
    distils = cfg.MODEL.META_ARCHITECTURE == "Distiller" and cfg.DISTILL.ENABLED and cfg.DISTILL.PAIRS
    return build_distiller(cfg, batches) if distils else build_plain(cfg)


def _configs(cfg: CfgNode, loaders: Sequence[str]) -> dict[str, CfgNode]:
    """Loader -> the config with that loader."""
    if not loaders:
        own = "workers" if task_of(cfg).finds_boxes else cfg.INPUT.CLASSIFICATION.LOADER
        return {own: cfg}
    if task_of(cfg).finds_boxes:
        raise ValueError("a detector has one loader, with DATALOADER.NUM_WORKERS processes: name none")
    return {name: _with_loader(cfg, name) for name in loaders}


def _with_loader(cfg: CfgNode, name: str) -> CfgNode:
    kind, _, count = name.partition(":")
    if name not in ("memory", "workers") and not (kind == "workers" and count.isdigit()):
        raise ValueError(f"the loader {name!r} is unknown: choose memory, workers, or workers:2 and the like")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.CLASSIFICATION.LOADER = kind
    if count:
        cfg.DATALOADER.NUM_WORKERS = int(count)
    return cfg


class _Stream:
    """A loader's batches, one after the other; knows how many may lie ready in it."""

    def __init__(self, cfg: CfgNode) -> None:
        self._batches: Iterator[Batch] = iter(task_of(cfg).train_loader(cfg, lambda: max(cfg.SEED, 0)))
        self.images = int(cfg.SOLVER.IMS_PER_BATCH)
        self.ready = 2 * int(cfg.DATALOADER.NUM_WORKERS) + 2

    def take(self, count: int) -> list[Batch]:
        return list(itertools.islice(self._batches, count))

    def __next__(self) -> Batch:
        return next(self._batches)


def _rates(stream: _Stream, training: Training, device: torch.device, iterations: int) -> Rates:
    def read(count: int) -> None:
        for _ in range(count):
            next(stream)

    ready = itertools.cycle([_on(device, batch) for batch in stream.take(2)])

    def step(count: int) -> None:
        for _ in range(count):
            training.batch = next(ready)
            training.step()

    waited = 0.0

    def both(count: int) -> None:
        nonlocal waited
        waited = 0.0
        for _ in range(count):
            start = time.perf_counter()
            training.batch = next(stream)
            waited += time.perf_counter() - start
            training.step()

    def seconds(work: Callable[[int], None]) -> float:
        work(stream.ready)
        return elapsed(lambda: work(iterations), device)

    images = stream.images * iterations
    data, alone, together = seconds(read), seconds(step), seconds(both)
    return Rates(images / data, images / alone, images / together, waited / together)


def _on(device: torch.device, batch: Batch) -> Batch:
    return [{**sample, "image": sample["image"].to(device)} for sample in batch]
