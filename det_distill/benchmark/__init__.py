"""Time and memory of a distilled training step beside the plain one: what `tools/benchmark.py` prints."""

from .inputs import data_batches, synthetic_batches, with_random_weights
from .memory import peak_memory
from .report import Report
from .steps import PARTS, Steps

__all__ = [
    "PARTS",
    "Report",
    "Steps",
    "data_batches",
    "peak_memory",
    "synthetic_batches",
    "with_random_weights",
]
