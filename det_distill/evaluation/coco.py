"""Average precision by the rules of the COCO challenge, computed in memory.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, and https://cocodataset.org/#detection-eval.
hotcoco does the work where it is installed, else pycocotools; their numbers are the same.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from det_distill.evaluation.columns import Detections, GroundTruth

Row = dict[str, Any]

_AREAS = {"": 0, "s": 1, "m": 2, "l": 3}


@dataclass(frozen=True)
class CocoPrecision:
    """COCO's precision table.

    Attributes:
        table: (T, R, C, A) precision at T = 10 overlaps (0.50, 0.55, ..., 0.95), R = 101 recalls, C classes
            and A = 4 areas (all, small below 32^2, medium, large from 96^2 square pixels); -1 where no object
            counts.
        library: "hotcoco" or "pycocotools", whichever computed it.
    """

    table: np.ndarray
    library: str = ""

    def average(self, *, overlap: int | None = None, area: str = "", category: int | None = None) -> float:
        """Average precision as a fraction of 1; NaN where no object counts.

        Args:
            overlap: index of one overlap (0 is 0.50, 5 is 0.75); None: the mean over all ten.
            area: "" (all), "s", "m" or "l".
            category: one class; None: the mean over the classes that have objects.
        """
        table = self.table[..., _AREAS[area]]
        table = table if overlap is None else table[overlap : overlap + 1]
        table = table if category is None else table[:, :, category : category + 1]
        valid = table[table > -1]
        return float(valid.mean()) if valid.size else float("nan")


def coco_average_precision(
    detections: Detections, truth: GroundTruth, num_classes: int, *, backend: str | None = None
) -> CocoPrecision:
    """Average precision of every class by COCO rules, with at most 100 detections per image and class.

    Difficult objects are ordinary objects here, as in detectron2's conversion of VOC data to COCO; crowds are
    regions in which any number of detections is ignored.  No detections at all give 0.

    Args:
        detections: any order.
        truth: the objects.
        num_classes: C.
        backend: "hotcoco" or "pycocotools"; None: the first that is installed.

    Raises:
        ValueError: a backend that is neither.
        ImportError: the backend that is asked for is not there, or none is; says what to install.
    """
    images = [{"id": index, "width": int(w), "height": int(h)} for index, (w, h) in enumerate(truth.sizes)]
    categories = [{"id": index, "name": str(index)} for index in range(num_classes)]
    name, module = _library(backend)
    build = _hotcoco if name == "hotcoco" else _pycocotools
    return CocoPrecision(_precision(build(module, detections, truth, images, categories)), name)


def _library(backend: str | None) -> tuple[str, Any]:
    """The name of a library that is installed, and its module."""
    if backend not in (None, "hotcoco", "pycocotools"):
        raise ValueError(f"the backend {backend!r} of COCO evaluation is unknown: hotcoco or pycocotools")
    hotcoco = None if backend == "pycocotools" else _imported("hotcoco")
    if hotcoco is not None and hasattr(hotcoco.COCO, "from_arrays"):  # before 1.3: takes no columns
        return "hotcoco", hotcoco
    if backend == "hotcoco":
        raise ImportError("hotcoco 1.3 or newer is not installed: pip install 'hotcoco>=1.3'.")
    if (pycocotools := _imported("pycocotools.coco")) is None:
        raise ImportError("COCO evaluation needs hotcoco or pycocotools: pip install 'hotcoco>=1.3'.")
    return "pycocotools", pycocotools


def _imported(name: str) -> Any:
    """The module, or None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _hotcoco(
    module: Any, detections: Detections, truth: GroundTruth, images: list[Row], categories: list[Row]
) -> Any:
    """hotcoco's evaluation object, not yet run."""
    sides, crowd = _corner_and_sides(truth.box), truth.crowd.astype(np.int64)
    objects = module.COCO.from_arrays(
        images, categories, truth.image, truth.category, sides, area=truth.area, iscrowd=crowd
    )
    found = np.column_stack(
        [detections.image, _corner_and_sides(detections.box), detections.score, detections.category]
    )
    return module.COCOeval(objects, objects.load_res(found), "bbox")


def _pycocotools(
    module: Any, detections: Detections, truth: GroundTruth, images: list[Row], categories: list[Row]
) -> Any:
    """pycocotools' evaluation object, not yet run."""
    objects = _rows(truth.image, truth.category, truth.box, area=truth.area, iscrowd=truth.crowd.astype(int))
    sides = _corner_and_sides(detections.box)
    found = _rows(
        detections.image,
        detections.category,
        detections.box,
        area=sides[:, 2] * sides[:, 3],
        iscrowd=np.zeros(len(detections), dtype=int),
        score=detections.score,
    )
    apis = [_pycocotools_api(module, images, categories, rows) for rows in (objects, found)]
    return importlib.import_module("pycocotools.cocoeval").COCOeval(*apis, "bbox")


def _precision(evaluation: Any) -> np.ndarray:
    """Run an evaluation; its (T, R, C, A) precision with the last limit of detections per image, 100."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1]


def _rows(image: np.ndarray, category: np.ndarray, box: np.ndarray, **columns: np.ndarray) -> list[Row]:
    """COCO annotations, ids from 1 (0 would mean "not matched" to pycocotools)."""
    names = ("image_id", "category_id", "bbox", *columns)
    values = [entry.tolist() for entry in (image, category, _corner_and_sides(box), *columns.values())]
    rows = zip(*values, strict=True)
    return [{"id": number, **dict(zip(names, row, strict=True))} for number, row in enumerate(rows, start=1)]


def _pycocotools_api(module: Any, images: list[Row], categories: list[Row], annotations: list[Row]) -> Any:
    api = module.COCO()
    api.dataset = {"images": images, "categories": categories, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return api


def _corner_and_sides(box: np.ndarray) -> np.ndarray:
    """(N, 4) x, y, width, height of (N, 4) x0, y0, x1, y1."""
    return np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1)
