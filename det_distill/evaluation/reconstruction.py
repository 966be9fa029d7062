"""How well paraphrasers reconstruct a teacher's features on a test set."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

__all__ = ["ReconstructionEvaluator"]


class ReconstructionEvaluator(DatasetEvaluator):
    """Averages, over batches, the raw and the scaled reconstruction error of each site.

    Takes the output of `ParaphraserTrainee` in eval mode, ``{site: (raw, scaled)}``; returns
    ``{"reconstruction": {"<site>": raw, "<site>_scaled": scaled}}``.
    """

    def reset(self) -> None:
        """Forget everything."""
        self._errors: list[dict[str, tuple[float, float]]] = []

    def process(self, inputs: Sequence[Any], outputs: Mapping[str, tuple[float, float]]) -> None:
        """Take one batch."""
        self._errors.append(dict(outputs))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return the means over all batches of all ranks; {} on the others."""
        errors = [e for part in comm.gather(self._errors, dst=0) for e in part]
        if not comm.is_main_process():
            return {}
        table: OrderedDict[str, float] = OrderedDict()
        for site in errors[0] if errors else ():
            raw, scaled = np.mean([e[site] for e in errors], axis=0)
            table[site], table[f"{site}_scaled"] = float(raw), float(scaled)
        return OrderedDict(reconstruction=dict(table))
