"""Image classification on detectron2's backbones, for distillation where the methods come from.

Importing this package registers ``ImageClassifier`` and ``MetricLearner`` in detectron2's ``META_ARCH_REGISTRY``.
"""

from .config import add_classification_config
from .metric_learning import MetricLearner, add_metric_learning_config
from .model import GlobalAveragePool, ImageClassifier

__all__ = [
    "GlobalAveragePool",
    "ImageClassifier",
    "MetricLearner",
    "add_classification_config",
    "add_metric_learning_config",
]
