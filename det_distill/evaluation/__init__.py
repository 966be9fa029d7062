"""Detection metrics: average precision by COCO and by PASCAL VOC rules."""

from det_distill.evaluation.coco import CocoPrecision, coco_average_precision
from det_distill.evaluation.columns import Detections, GroundTruth
from det_distill.evaluation.detection import DetectionEvaluator
from det_distill.evaluation.detection_file import read_detections
from det_distill.evaluation.voc import OVERLAPS, VocPrecision, voc_average_precision

__all__ = [
    "OVERLAPS",
    "CocoPrecision",
    "DetectionEvaluator",
    "Detections",
    "GroundTruth",
    "VocPrecision",
    "coco_average_precision",
    "read_detections",
    "voc_average_precision",
]
