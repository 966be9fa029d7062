"""The evaluator that `tools/train_net.py` uses: COCO rules and VOC rules for every detection dataset."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from det_distill.evaluation.coco import CocoPrecision, coco_average_precision
from det_distill.evaluation.columns import Detections, GroundTruth
from det_distill.evaluation.detection_file import FILE_NAME, write_detections
from det_distill.evaluation.ground_truth import evaluation_dicts
from det_distill.evaluation.side_by_side import mean_of_classes, side_by_side
from det_distill.evaluation.voc import OVERLAPS, VocPrecision, voc_average_precision

logger = logging.getLogger(__name__)


class DetectionEvaluator(DatasetEvaluator):
    """Average precision by COCO rules and by VOC rules, in memory, for VOC folders and COCO files alike.

    Results, in percent; NaN for what has no object in the dataset; all 0 without any detection:

    * "bbox", by COCO rules: AP (mean over overlaps 0.50 to 0.95), AP50, AP75, APs, APm, APl (areas split at
      32^2 and 96^2 square pixels), and per class AP-<class> and AP50-<class>.  Objects marked difficult are
      ordinary objects, as in detectron2's conversion to COCO; crowds (iscrowd) are respected.
    * "voc", by VOC rules: AP (mean over the same ten overlaps), AP50, AP75 by area, the rule since 2010; the same
      three with "-11point", the rule of 2007; and per class AP-<class>, AP50-<class>, AP75-<class> (area) and
      AP50-11point-<class>.  Objects marked difficult are ignored, unless they are to be counted, and so are crowds.

    A table of both is logged.  Images that were never processed count as images without detections.  Detections
    with a number that is not finite are dropped, with a warning.  Equal scores are taken in the order of the dataset,
    so that several processes give exactly the numbers of one.

    Args:
        dataset_name: a dataset in DatasetCatalog; its image ids may be anything that hashes.
        output_dir: if given, `evaluate` writes the detections to <output_dir>/coco_instances_results.json in
            COCO's result format, with the dataset's own image and category ids.
        count_difficult: VOC rules take objects marked difficult as ordinary ones, as some papers do.

    Raises:
        ValueError: two images of the dataset have the same id.
    """

    def __init__(
        self, dataset_name: str, *, output_dir: str | Path | None = None, count_difficult: bool = False
    ) -> None:
        self._name = dataset_name
        self._count_difficult = count_difficult
        self._output_dir = None if output_dir is None else Path(output_dir)
        dicts = evaluation_dicts(dataset_name)
        self._metadata = MetadataCatalog.get(dataset_name)
        self._classes = list(self._metadata.thing_classes)
        self._image_ids = [record["image_id"] for record in dicts]
        self._position = {image_id: index for index, image_id in enumerate(self._image_ids)}
        if len(self._position) < len(dicts):
            twice = next(i for n, i in enumerate(self._image_ids) if self._position[i] != n)
            raise ValueError(f"The dataset '{dataset_name}' has two images with the id {twice!r}.")
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

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Gather the detections of all ranks and compute both rules.

        Returns:
            The results described above on the main rank, an empty dict on the others.
        """
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        detections = self._columns({index: rows for part in gathered for index, rows in part.items()})
        if self._output_dir is not None:
            ids = self._metadata.get("thing_dataset_id_to_contiguous_id", {})
            own = {contiguous: category for category, contiguous in ids.items()}
            write_detections(detections, self._output_dir / FILE_NAME, self._image_ids, own)
        return self.results(detections)

    def results(self, detections: Detections) -> OrderedDict[str, dict[str, float]]:
        """Return the results of finished detections, whatever was processed; logs the table."""
        sides = detections, self._truth, len(self._classes)
        coco = coco_average_precision(*sides)
        voc = voc_average_precision(*sides, iou=OVERLAPS, count_difficult=self._count_difficult)
        options = {"count_difficult": self._count_difficult}
        logger.info("\n" + side_by_side(self._name, self._classes, self._truth, voc, coco, **options))
        return OrderedDict(bbox=_by_coco_rules(coco, self._classes), voc=_by_voc_rules(voc, self._classes))

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


def _by_coco_rules(precision: CocoPrecision, classes: Sequence[str]) -> dict[str, float]:
    result = {
        "AP": precision.average(),
        "AP50": precision.average(overlap=0),
        "AP75": precision.average(overlap=5),
        **{f"AP{area}": precision.average(area=area) for area in "sml"},
    }
    for index, name in enumerate(classes):
        result[f"AP-{name}"] = precision.average(category=index)
        result[f"AP50-{name}"] = precision.average(category=index, overlap=0)
    return {key: 100 * value for key, value in result.items()}


def _by_voc_rules(precision: VocPrecision, classes: Sequence[str]) -> dict[str, float]:
    result = {}
    for suffix, table in (("", precision.area), ("-11point", precision.eleven_point)):
        rows = {"AP": table, "AP50": table[0], "AP75": table[5]}
        result.update({key + suffix: mean_of_classes(row) for key, row in rows.items()})
    for index, name in enumerate(classes):
        area, eleven = precision.area[:, index], precision.eleven_point[:, index]
        values = {"AP": area.mean(), "AP50": area[0], "AP75": area[5], "AP50-11point": eleven[0]}
        result.update({f"{key}-{name}": float(value) for key, value in values.items()})
    return {key: 100 * value for key, value in result.items()}
