"""A small dataset of cats and dogs in VOC layout, and ways to give an evaluator detections."""

from pathlib import Path

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image

SIZE = (200, 150)
PETS = {
    "a": [("cat", 0, 11, 11, 40, 50), ("dog", 1, 61, 61, 100, 100)],
    "b": [("dog", 0, 1, 1, 20, 20), ("cat", 0, 101, 21, 200, 150)],
}


def voc_folder(root: Path, annotations: dict[str, list[tuple]], size: tuple[int, int] = SIZE) -> Path:
    """Images of one size; objects (class, difficult, xmin, ymin, xmax, ymax) by image name; one split, ``test``."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/test.txt").write_text("\n".join(annotations))
    for image, entries in annotations.items():
        text = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        for name, difficult, *corners in entries:
            sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
            box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
            flags = f"<pose/><truncated>0</truncated><difficult>{difficult}</difficult>"
            text += f"<object><name>{name}</name>{flags}<bndbox>{box}</bndbox></object>"
        (root / f"Annotations/{image}.xml").write_text(text + "</annotation>")
        Image.new("RGB", size).save(root / f"JPEGImages/{image}.jpg")
    return root


def found(boxes, scores, classes):
    """A detector's output for one image."""
    instances = Instances(SIZE[::-1])
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return [{"instances": instances}]


def process_truth(evaluator, name, keep=lambda entry: True):
    """Give an evaluator the dataset's own boxes as detections."""
    for record in DatasetCatalog.get(name):
        entries = [entry for entry in record["annotations"] if keep(entry)]
        boxes = [entry["bbox"] for entry in entries]
        evaluator.process(
            [record], found(boxes, [0.9] * len(boxes), [entry["category_id"] for entry in entries])
        )
