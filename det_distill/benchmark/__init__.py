"""Time and memory of a training step, distilled and plain, and of its data: what `tools/benchmark.py` prints."""

from .inputs import data_batches, synthetic_batches, with_random_weights
from .memory import peak_memory
from .report import Report
from .steps import PARTS, Steps
from .throughput import Throughput, measure_throughput

__all__ = [
    "PARTS",
    "Report",
    "Steps",
    "Throughput",
    "data_batches",
    "measure_throughput",
    "peak_memory",
    "synthetic_batches",
    "with_random_weights",
]
