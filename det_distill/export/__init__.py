"""What is taken away from a distillation: the student alone, in formats that need none of this package."""

from .check import DoesNotFit, ExportError
from .plain_config import needs_det_distill, plain_config
from .result import StudentExport
from .student import export_student
from .usage import start_of_a_detector, usage

__all__ = [
    "DoesNotFit",
    "ExportError",
    "StudentExport",
    "export_student",
    "needs_det_distill",
    "plain_config",
    "start_of_a_detector",
    "usage",
]
