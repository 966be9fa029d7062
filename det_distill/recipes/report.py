"""What a recipe ends with: the table, the picture and the exported student, from what its steps recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode
from torch import Tensor

from ..analysis.detections_picture import Column, Photo, draw_detections, read_detections
from ..checkpoint import load_teacher_weights
from ..config import build_student
from ..evaluation.comparison import ComparisonRow, comparison_text, recorded_results, write_comparison
from ..evaluation.cost import model_cost
from ..evaluation.ground_truth import evaluation_dicts
from ..export import export_student
from ..tasks import task_of
from .recipe import CHECKPOINT, Recipe

__all__ = ["write_report"]


def write_report(
    recipe: Recipe, configs: Mapping[str, CfgNode], *, say: Callable[[str], None] = print
) -> list[ComparisonRow]:
    """Write the table, the picture and the export that a recipe asks for, and say where they are.

    The precision and the boxes are those that the steps recorded when they ended; the cost is measured here.

    Args:
        recipe: a recipe whose steps are all finished.
        configs: their configs, by name.
        say: called with each line for the person at the console.

    Returns:
        The rows of the table.
    """
    rows: list[ComparisonRow] = []
    notes: list[str] = []
    if recipe.compare:
        say("Measuring what each model costs ...")
        rows = [_row(name, configs[step]) for name, step in recipe.compare.items()]
        table = write_comparison(rows, recipe.output)[0]
        notes.append(f"Table:    {table} (also as .csv and .json)")
    if recipe.picture:
        notes.append(f"Picture:  {_draw(recipe, configs)}")
    if recipe.export:
        cfg = configs[recipe.export]
        export = export_student(
            cfg, str(_checkpoint(cfg)), recipe.output / "export", images=[_test_image(cfg)]
        )
        megabytes = export.sizes["student.pth"] / 1e6
        notes.append(
            f"Student:  {export.folder} ({megabytes:.1f} MB, a plain detectron2 checkpoint and safetensors)"
        )
    for text in filter(None, [comparison_text(rows) if rows else "", "\n".join(notes), recipe.next.strip()]):
        say(f"\n{text}")
    return rows


def _checkpoint(cfg: CfgNode) -> Path:
    return Path(cfg.OUTPUT_DIR) / CHECKPOINT


def _row(name: str, cfg: CfgNode) -> ComparisonRow:
    model = build_student(cfg)
    load_teacher_weights(model, str(_checkpoint(cfg)), name=name)
    image = _test_image(cfg)
    cost = model_cost(model, image.shape[1], image.shape[2], image=image)
    return ComparisonRow(name, recorded_results(cfg.OUTPUT_DIR), cost)


def _test_image(cfg: CfgNode) -> Tensor:
    """The first test photo as the model gets it, (C, H, W)."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 0
    batch = next(iter(task_of(cfg).test_loader(cfg, cfg.DATASETS.TEST[0])))
    image: Tensor = batch[0]["image"]
    return image


def _draw(recipe: Recipe, configs: Mapping[str, CfgNode]) -> Path:
    assert recipe.picture is not None
    test = next(configs[step].DATASETS.TEST[0] for step in recipe.compare.values())
    records = _spread(evaluation_dicts(test), recipe.picture.photos)
    metadata = MetadataCatalog.get(test)
    known = metadata.get("thing_dataset_id_to_contiguous_id", {})
    columns = []
    for name, step in recipe.compare.items():
        folder = Path(configs[step].OUTPUT_DIR)
        found = read_detections(folder / "inference" / "coco_instances_results.json", records)
        for boxes in found:
            boxes[:, 5] = [known.get(int(category), category) for category in boxes[:, 5]]
        precision = recorded_results(folder).get("bbox/AP50", float("nan"))
        columns.append(Column(f"{name}: AP50 {precision:.1f}", found))
    return draw_detections(
        [_photo(record) for record in records],
        columns,
        recipe.output / "comparison.png",
        threshold=recipe.picture.threshold,
        class_names=metadata.thing_classes,
    )


def _spread(records: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` photos among those with the most objects: the fuller half, evenly, in the data's order."""
    fuller = sorted(range(len(records)), key=lambda i: -len(records[i]["annotations"]))
    candidates = fuller[: max(count, len(records) // 2)]
    chosen = {candidates[i * len(candidates) // count] for i in range(min(count, len(candidates)))}
    return [records[i] for i in sorted(chosen)]


def _photo(record: Mapping[str, Any]) -> Photo:
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
    return Photo(
        pixels=read_image(record["file_name"], format="RGB"),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        classes=np.array([a["category_id"] for a in record["annotations"]], dtype=np.int64),
    )
