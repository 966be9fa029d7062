"""Time detectron2's PASCAL VOC evaluator beside ours on one synthetic set, in one run, and compare their numbers.

Each evaluator is built, given the detections of one image after the other, and asked for its results: detectron2's
once by each of its two rules; ours before, between and after these, by both VOC rules and by COCO rules at once. The
dataset is loaded first, as the test loader does in any evaluation; that time is told, but it is not the evaluator's.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.evaluation import DatasetEvaluator, PascalVOCDetectionEvaluator
from detectron2.evaluation import pascal_voc_evaluation as upstream

from ..data import register_voc
from ..evaluation import DetectionEvaluator
from .memory import _reset_peak, _resident
from .synthetic_voc import SPLIT, Found, SyntheticVoc

__all__ = ["PARTS", "EvaluationReport", "measure_evaluation"]

PARTS = ("load", "build", "process", "evaluate")
"""Load the dataset; build the evaluator; give it all detections; ask for the results."""

_RULES = {"11-point": 2007, "area": 2012}
_THEIRS = {f"detectron2, {rule}": rule for rule in _RULES}
_OURS = "det_distill, all rules"
_NUMBERS = ("AP", "AP50", "AP75")
_TOLERANCE = 1e-9

Times = tuple[float, ...]
Results = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured.

    Attributes:
        setting: sizes and versions by name.
        seconds: evaluator -> per repeat the seconds of each of `PARTS`.
        difference: the largest difference between both sides' AP, AP50 and AP75 by both rules, in percent points.
        peak_bytes: peak memory of ours from being built to its results, in a process of its own; 0: not measured.
    """

    setting: Mapping[str, Any]
    seconds: Mapping[str, Sequence[Times]]
    difference: float
    peak_bytes: int

    def medians(self) -> dict[str, dict[str, float]]:
        """Return evaluator -> part -> median seconds; "evaluator" is the median sum of all parts but the loading."""
        found = {}
        for name, times in self.seconds.items():
            parts = dict(zip(PARTS, map(statistics.median, zip(*times, strict=True)), strict=True))
            found[name] = {**parts, "evaluator": statistics.median(sum(t[1:]) for t in times)}
        return found

    def ratios(self) -> dict[str, float]:
        """Return how many times faster ours is than each of detectron2's, without and with loading."""
        own, *others = (self.medians()[name] for name in (_OURS, *_THEIRS))
        found = {}
        for name, other in zip(_THEIRS, others, strict=True):
            found[f"{name} / ours"] = other["evaluator"] / own["evaluator"]
            whole = (other["evaluator"] + other["load"]) / (own["evaluator"] + own["load"])
            found[f"{name} / ours, with loading"] = whole
        return found

    def table(self) -> str:
        """Return the lines that the tool prints."""
        lines = [", ".join(f"{k} {v}" for k, v in self.setting.items())]
        lines.append(f"{'seconds':26}" + "".join(f"{part:>11}" for part in (*PARTS, "evaluator")))
        for name, times in self.medians().items():
            lines.append(f"{name:26}" + "".join(f"{value:11.2f}" for value in times.values()))
        lines += [f"{name:48}{ratio:8.1f}" for name, ratio in self.ratios().items()]
        lines.append(
            f"largest difference of AP, AP50, AP75 by both rules: {self.difference:.1e} percent points"
        )
        if self.peak_bytes:
            lines.append(f"peak memory of ours: {self.peak_bytes / 1e6:.0f} MB")
        return "\n".join(lines)

    def write_json(self, path: str) -> None:
        """Write everything, single times too."""
        derived = {"medians": self.medians(), "ratios": self.ratios()}
        Path(path).write_text(json.dumps({**asdict(self), **derived}, indent=1) + "\n")

    def write_csv(self, path: str) -> None:
        """Write a header and one row: setting, the evaluators' seconds, ratios, difference, peak in megabytes."""
        row = {
            **self.setting,
            **{f"{name} s": round(times["evaluator"], 3) for name, times in self.medians().items()},
            **{name: round(ratio, 2) for name, ratio in self.ratios().items()},
            "largest difference": self.difference,
            "peak MB": round(self.peak_bytes / 1e6, 1),
        }
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerow(row)


def measure_evaluation(images: int, classes: int, *, memory: bool = True, seed: int = 0) -> EvaluationReport:
    """Write a set into a temporary folder, evaluate the same detections on both sides, compare.

    Args:
        images: of the set.
        classes: of the set, not more than images.
        memory: measure the peak memory of ours, too, in one more process.
        seed: of everything that is random.

    Raises:
        ValueError: sizes that make no set.
        RuntimeError: the numbers differ by more than 1e-9.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = SyntheticVoc(Path(folder), images, classes, seed)
        objects = data.write()
        found = data.detections()
        results: dict[str, Results] = {}
        seconds: dict[str, list[Times]] = {name: [] for name in (*_THEIRS, _OURS)}
        times, result = _ours(data, found)
        seconds[_OURS].append(times)
        for name, rule in _THEIRS.items():
            times, results[rule] = _theirs(data, found, _RULES[rule])
            seconds[name].append(times)
            seconds[_OURS].append(_ours(data, found)[0])
        difference = _difference(results, result["voc"])
        peak = _peak_memory(data) if memory else 0
    boxes = sum(len(instances) for _, instances in found)
    setting = {"images": images, "classes": classes, "objects": objects, "detections": boxes}
    versions = {"numpy": np.__version__, "python": platform.python_version()}
    return EvaluationReport({**setting, **versions}, seconds, difference, peak)


def _ours(data: SyntheticVoc, found: Sequence[Found]) -> tuple[Times, Results]:
    name = register_voc("evaluation_benchmark", data.root, SPLIT, data.classes)
    return _timed(name, DetectionEvaluator, found)


def _theirs(data: SyntheticVoc, found: Sequence[Found], year: int) -> tuple[Times, Results]:
    name = "evaluation_benchmark"
    register_pascal_voc(name, str(data.root), SPLIT, year, class_names=list(data.classes))
    upstream.parse_rec.cache_clear()  # files that it has read before
    with _equal_scores_in_order():
        return _timed(name, PascalVOCDetectionEvaluator, found)


def _timed(
    name: str, build: Callable[[str], DatasetEvaluator], found: Sequence[Found]
) -> tuple[Times, Results]:
    """Evaluate on a dataset, then forget it.

    Returns:
        Seconds of each part, and the results.
    """
    marks = [time.perf_counter()]
    try:
        DatasetCatalog.get(name)
        marks.append(time.perf_counter())
        evaluator = build(name)
        evaluator.reset()
        marks.append(time.perf_counter())
        for image_id, instances in found:
            evaluator.process([{"image_id": image_id}], [{"instances": instances}])
        marks.append(time.perf_counter())
        results: Results = evaluator.evaluate()
        marks.append(time.perf_counter())
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    return tuple(np.diff(marks).tolist()), results


@contextmanager
def _equal_scores_in_order() -> Iterator[None]:
    """Let numpy sort stably: detectron2 leaves the order of equal scores open, and its numbers depend on it."""
    argsort = np.argsort
    np.argsort = partial(argsort, kind="stable")
    try:
        yield
    finally:
        np.argsort = argsort


def _difference(theirs: Mapping[str, Results], ours: Mapping[str, float]) -> float:
    """The largest difference over both rules.

    Raises:
        RuntimeError: it is above the tolerance.
    """
    suffix = {"11-point": "-11point", "area": ""}
    pairs = [(theirs[rule]["bbox"][key], ours[key + suffix[rule]]) for rule in theirs for key in _NUMBERS]
    largest = max(abs(a - b) for a, b in pairs)
    if not largest <= _TOLERANCE:
        raise RuntimeError(
            f"detectron2's numbers and ours differ by {largest:.1e} percent points: no comparison"
        )
    return float(largest)


def _peak_memory(data: SyntheticVoc) -> int:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    words = [str(data.root), str(data.images), str(len(data.classes)), str(data.seed)]
    command = [sys.executable, "-m", __name__, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise RuntimeError(f"the memory of the evaluation could not be measured: {last[0]}")
    return int(done.stdout.split()[-1])


def _main(folder: str, images: str, classes: str, seed: str) -> None:
    data = SyntheticVoc(Path(folder), int(images), int(classes), int(seed))
    found = data.detections()
    _reset_peak()
    before = _resident("VmRSS")
    _ours(data, found)
    print(_resident("VmHWM") - before)


if __name__ == "__main__":
    _main(*sys.argv[1:])
