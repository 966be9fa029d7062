"""The evaluator that `tools/train_net.py` uses: COCO rules and VOC rules for every detection dataset."""

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from det_distill.evaluation.coco import coco_average_precision
from det_distill.evaluation.columns import Detections, GroundTruth
from det_distill.evaluation.ground_truth import evaluation_dicts
from det_distill.evaluation.voc import voc_average_precision

logger = logging.getLogger(__name__)


class DetectionEvaluator(DatasetEvaluator):
    """Average precision by COCO rules and by VOC rules, in memory, for VOC folders and COCO files alike.

    Results, in percent; NaN for what has no object in the dataset; all 0 without any detection:

    * "bbox", by COCO rules: AP (mean over overlaps 0.50 to 0.95), AP50, AP75, APs, APm, APl (areas split at
      32^2 and 96^2 square pixels), and per class AP-<class> and AP50-<class>.  Objects marked difficult are
      ordinary objects, as in detectron2's conversion to COCO; crowds (iscrowd) are respected.
    * "voc", by VOC rules at overlap 0.5: AP50 (area, the rule since 2010), AP50-11point (2007) and per class
      AP50-<class> (area).  Objects marked difficult are ignored, and so are crowds.

    Images that were never processed count as images without detections.  Detections with a number that is not
    finite are dropped, with a warning.

    Args:
        dataset_name: a dataset in DatasetCatalog.
        output_dir: if given, `evaluate` writes the detections to <output_dir>/coco_instances_results.json in
            COCO's result format, with the dataset's own image and category ids.
    """

    def __init__(self, dataset_name: str, *, output_dir: str | Path | None = None) -> None:
        self._name = dataset_name
        self._output_dir = None if output_dir is None else Path(output_dir)
        dicts = evaluation_dicts(dataset_name)
        self._metadata = MetadataCatalog.get(dataset_name)
        self._classes = list(self._metadata.thing_classes)
        self._image_ids = [record["image_id"] for record in dicts]
        self._position = {image_id: index for index, image_id in enumerate(self._image_ids)}
        self._truth = GroundTruth.from_dicts(dicts)
        self.reset()

    def reset(self) -> None:
        """Forget all detections."""
        self._found: dict[int, np.ndarray] = {}

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Note the detections of some images; of an image that comes twice, the last ones.

        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances": pred_boxes (x0, y0, x1, y1 in pixels of the original image),
                scores and pred_classes.

        Raises:
            KeyError: an image is not in the dataset.
        """
        for record, output in zip(inputs, outputs, strict=True):
            if record["image_id"] not in self._position:
                raise KeyError(f"The image {record['image_id']!r} is not in the dataset '{self._name}'.")
            instances = output["instances"].to("cpu")
            columns = [
                instances.pred_boxes.tensor,
                instances.scores[:, None],
                instances.pred_classes[:, None],
            ]
            rows = np.concatenate([column.detach().float().numpy() for column in columns], axis=1)
            self._found[self._position[record["image_id"]]] = rows

    def evaluate(self) -> "OrderedDict[str, dict[str, float]]":
        """Gather the detections of all ranks and compute both rules.

        Returns:
            The results described above on the main rank, an empty dict on the others.
        """
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        detections = self._columns({index: rows for part in gathered for index, rows in part.items()})
        if self._output_dir is not None:
            self._write(detections, self._output_dir)
        return OrderedDict(bbox=self._by_coco_rules(detections), voc=self._by_voc_rules(detections))

    def _columns(self, found: Mapping[int, np.ndarray]) -> Detections:
        """The detections of all images in the order of the dataset."""
        images = sorted(found)
        rows = np.concatenate([np.zeros((0, 6)), *(found[index] for index in images)]).astype(np.float64)
        image = np.repeat(np.array(images, dtype=np.int64), [len(found[index]) for index in images])
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            logger.warning(
                f"'{self._name}': {np.sum(~finite)} detections with numbers not finite are dropped."
            )
        rows = rows[finite]
        return Detections(image[finite], rows[:, 5].astype(np.int64), rows[:, :4], rows[:, 4])

    def _by_coco_rules(self, detections: Detections) -> dict[str, float]:
        precision = coco_average_precision(detections, self._truth, len(self._classes))
        result = {
            "AP": precision.average(),
            "AP50": precision.average(overlap=0),
            "AP75": precision.average(overlap=5),
            **{f"AP{area}": precision.average(area=area) for area in "sml"},
        }
        for index, name in enumerate(self._classes):
            result[f"AP-{name}"] = precision.average(category=index)
            result[f"AP50-{name}"] = precision.average(category=index, overlap=0)
        return {key: 100 * value for key, value in result.items()}

    def _by_voc_rules(self, detections: Detections) -> dict[str, float]:
        precision = voc_average_precision(detections, self._truth, len(self._classes))
        result = {"AP50": _mean(precision.area), "AP50-11point": _mean(precision.eleven_point)}
        result.update(
            {f"AP50-{name}": value for name, value in zip(self._classes, precision.area, strict=True)}
        )
        return {key: 100 * float(value) for key, value in result.items()}

    def _write(self, detections: Detections, folder: Path) -> None:
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
        category_ids = {contiguous: own for own, contiguous in ids.items()}
        rows = [
            {
                "image_id": self._image_ids[image],
                "category_id": category_ids.get(category, category),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
            }
            for image, category, (x0, y0, x1, y1), score in zip(
                *(getattr(detections, key).tolist() for key in ("image", "category", "box", "score")),
                strict=True,
            )
        ]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "coco_instances_results.json").write_text(json.dumps(rows))


def _mean(values: np.ndarray) -> float:
    """The mean over the classes that have objects; NaN if none has."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
