"""Two processes that each see a part of the images find together exactly what one process finds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from box_columns import random_scene
from detectron2.data import DatasetCatalog, MetadataCatalog
from pets import found
from torch import multiprocessing

from det_distill.evaluation import DetectionEvaluator

IMAGES = 12


def register():
    """Objects at random, some of them difficult; one class has none."""
    _, truth = random_scene(5, images=IMAGES)
    dicts = [{"image_id": i, "width": 200, "height": 200, "annotations": []} for i in range(IMAGES)]
    for image, category, box, difficult in zip(
        truth.image, truth.category, truth.box, truth.difficult, strict=True
    ):
        entry = {"bbox": box.tolist(), "bbox_mode": 0, "category_id": int(category), "difficult": difficult}
        dicts[image]["annotations"].append(entry)
    DatasetCatalog.register("parted", lambda: dicts)
    MetadataCatalog.get("parted").thing_classes = ["a", "b", "c", "d"]


def measure(images, folder):
    """The results of a detector that saw some images; its scores have one digit: many are equal."""
    scene, _ = random_scene(5, images=IMAGES)
    evaluator = DetectionEvaluator("parted", output_dir=folder)
    for image in images:
        rows = np.flatnonzero(scene.image == image)
        output = found(scene.box[rows], np.round(scene.score[rows], 1), scene.category[rows])
        evaluator.process([{"image_id": image}], output)
    return evaluator.evaluate()


def _of_two(rank, folder):
    """The first has the later images; both have image 3, as where a sampler fills up."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    register()
    images = [[11, 3, 9, 8, 7, 1], [0, 2, 3, 4, 5, 6, 10]][rank]
    torch.save(measure(images, Path(folder) / "two"), f"{folder}/results-{rank}.pth")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_find_together_exactly_what_one_finds_alone(tmp_path):
    multiprocessing.spawn(_of_two, (str(tmp_path),), nprocs=2)
    together, nothing = (
        torch.load(tmp_path / f"results-{rank}.pth", weights_only=False) for rank in range(2)
    )
    register()
    alone = measure(range(IMAGES), tmp_path / "one")
    assert nothing == {} and 10 < alone["voc"]["AP50"] < 90
    for rule in ("bbox", "voc"):
        assert alone[rule].keys() == together[rule].keys()
        np.testing.assert_array_equal(list(together[rule].values()), list(alone[rule].values()))
    name = "coco_instances_results.json"
    assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
