"""The distillation terms on the console, beside the losses that detectron2 prints."""

from __future__ import annotations

import logging

from detectron2.utils.events import EventWriter, get_event_storage

__all__ = ["DistillationPrinter"]


class DistillationPrinter(EventWriter):
    """Prints the median of each distillation and reconstruction term over the last 20 iterations.

    detectron2's printer shows names that contain "loss"; the terms are named ``distill_<pair>``, and so they appear in
    TensorBoard and ``metrics.json``.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger("det_distill")

    def write(self) -> None:
        """Print one line if there is any term."""
        storage = get_event_storage()
        terms = [
            f"{name}: {history.median(20):.4g}"
            for name, history in storage.histories().items()
            if name.startswith(("distill_", "reconstruct_"))
        ]
        if terms:
            self._logger.info(" iter: %d  %s", storage.iter, "  ".join(terms))
