"""Knowledge distillation for object detectors, as an extension of detectron2."""

from .config import add_distill_config, get_cfg
from .meta_arch import Distiller, ParaphraserPretrainer
from .pairs import Pair, Pairs
from .taps import FeatureTap
from .teachers import RCNNTeacher, Teacher, Teachers

__version__ = "0.1.0"
__all__ = [
    "Distiller",
    "FeatureTap",
    "Pair",
    "Pairs",
    "ParaphraserPretrainer",
    "RCNNTeacher",
    "Teacher",
    "Teachers",
    "add_distill_config",
    "get_cfg",
]
