"""Weights that are to be measured: a tensor that the file does not give would be random, and so would be the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .checkpoint import StudentCheckpointer
from .distiller import DISTILL_PREFIX, Distiller

__all__ = ["MeasuredCheckpointer"]

_COUNTER = "num_batches_tracked"  # of batch normalisation, not used where it has a momentum
_SHOWN = 4


class MeasuredCheckpointer(StudentCheckpointer):
    """A `StudentCheckpointer` that raises a ValueError unless every tensor of the network is in the file.

    So the weights of a backbone alone (``wheel://...``, a zoo's ImageNet file, a ``backbone.pth``), which a training
    starts from, are refused, and so is a network with another number of classes. What pairs of a distillation hold is
    not used in a measurement and may be missing.
    """

    def _load_model(self, checkpoint: Any) -> Any:
        shapes = {k: tuple(getattr(v, "shape", ())) for k, v in checkpoint["model"].items()}
        incompatible = super()._load_model(checkpoint)
        unused = (DISTILL_PREFIX,) if isinstance(self.model, Distiller) else ()
        missing = [
            k for k in incompatible.missing_keys if not k.startswith(unused) and not k.endswith(_COUNTER)
        ]
        misfits = [m for m in incompatible.incorrect_shapes if not m[0].startswith(unused)]
        own = {k: tuple(v.shape) for k, v in self.model.state_dict().items()}
        misfits += [(k, shapes[k], own[k]) for k in missing if k in shapes]  # which a hand-over has left out
        missing = [k for k in missing if k not in shapes]
        if missing or misfits:
            raise ValueError(_refusal(self._file, missing, misfits))
        return incompatible


def _refusal(file: str, missing: Sequence[str], misfits: Sequence[tuple[str, Any, Any]]) -> str:
    parts = []
    if missing:
        parts.append(f"{len(missing)} are not in the file, such as {', '.join(missing[:_SHOWN])}")
    if misfits:
        shapes = (f"{k} (file {tuple(theirs)}, model {tuple(ours)})" for k, theirs, ours in misfits[:_SHOWN])
        parts.append(f"{len(misfits)} have another shape there, such as {', '.join(shapes)}")
    whole_backbone = missing and not any(k.startswith("backbone.") for k in missing) and not misfits
    kind = ". It holds a backbone, which a training starts from" if whole_backbone else ""
    return (
        f"{file} does not give all tensors of this network, so random ones would be measured: {'; '.join(parts)}"
        f"{kind}. Name a checkpoint that a training with this config wrote"
    )
