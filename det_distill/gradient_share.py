"""Which loss term moves the shared backbone: each term's gradient norm there, measured while training.

A loss's value says nothing about its force: a term that is a tenth of another can have the larger gradient. The share
says what a pair's weight has to be, and when a term has taken over.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from .taps import AddressError, resolve
from .wrapping import plain_model, student_of

__all__ = ["GradientShare", "gradient_norms"]

logger = logging.getLogger(__name__)


def gradient_norms(
    losses: Mapping[str, Any], parameters: Sequence[nn.Parameter], *, scale: float = 1.0
) -> dict[str, Tensor]:
    """Return the L2 norm of each loss's gradient with respect to all `parameters` together, a scalar by name.

    Leaves the graph, the parameters' ``grad`` and the random stream as they are. A loss that does not depend on the
    parameters, or on nothing at all, has norm 0. One backward pass for each of the others.

    Args:
        losses: scalars by name, with their graph.
        parameters: all require a gradient.
        scale: each loss is multiplied by this before the backward pass, and its norm divided by it after, so that
            gradients in float16 do not vanish on the way.
    """
    norms = {}
    for name, value in losses.items():
        found: list[Tensor] = []
        if isinstance(value, Tensor) and value.requires_grad:
            scaled = value * scale
            gradients = torch.autograd.grad(scaled, parameters, retain_graph=True, allow_unused=True)
            found = [torch.linalg.vector_norm(g.detach().float()) for g in gradients if g is not None]
        norms[name] = torch.linalg.vector_norm(torch.stack(found)) / scale if found else torch.zeros(())
    return norms


class GradientShare(HookBase):
    """Every `period` iterations, logs how much each entry of the loss dict pulls at the student's backbone.

    Scalars: ``gradient/<term>``, the L2 norm of the gradient of that term, weight included, with respect to the
    backbone's trainable parameters together; ``gradient_share/<term>``, that norm divided by the sum of all terms'
    norms. And one line in the log. Norms do not add up to the norm of the sum: terms that agree in direction and terms
    that oppose each other have the same shares.

    It measures the losses of the training step itself, between the forward and the backward pass, for distilled and
    plain students alike. Training is bitwise what it would be without it. The cost, in those iterations only, is a
    backward pass for each term.

    Under DistributedDataParallel each process measures its own images, and no gradient is exchanged or accumulated
    (but all processes have to have the hook, since synchronised batch normalisation exchanges statistics). With
    automatic mixed precision the losses are scaled as the trainer's gradient scaler scales them and the norms scaled
    back; where a gradient overflows, which the scaler answers by skipping the step, nothing is logged.

    Args:
        period: in iterations; the first is measured.
        path: the module of the student whose parameters count.

    Raises:
        ValueError: a period below 1; when training begins: the student has no such module, or nothing in it is trained.
    """

    def __init__(self, period: int, path: str = "backbone") -> None:
        if period < 1:
            raise ValueError(
                f"the gradient's shares are measured every {period} iterations: needs at least 1"
            )
        self._period, self._path = period, path
        self._norms: dict[str, Tensor] = {}
        self._handle: torch.utils.hooks.RemovableHandle | None = None

    def before_train(self) -> None:  # noqa: D102
        if not self._parameters():
            raise ValueError(
                f"no parameter of the student's {self._path!r} is trained, so no loss has a share of its gradient: "
                "switch the report off (DISTILL.GRADIENT_SHARE_PERIOD: 0)"
            )

    def before_step(self) -> None:  # noqa: D102
        if self.trainer.iter % self._period == 0:
            self._handle = plain_model(self.trainer.model).register_forward_hook(self._measure)

    def after_step(self) -> None:  # noqa: D102
        self._remove()
        if not self._norms:
            return
        names, values = list(self._norms), torch.stack(list(self._norms.values())).tolist()
        self._norms = {}
        total = sum(values)
        if not total < float("inf"):
            logger.info("iter %d: a gradient at %s overflowed, no shares", self.trainer.iter, self._path)
            return
        shares = [value / total if total else 0.0 for value in values]
        for name, value, share in zip(names, values, shares, strict=True):
            self.trainer.storage.put_scalar(f"gradient/{name}", value, smoothing_hint=False)
            self.trainer.storage.put_scalar(f"gradient_share/{name}", share, smoothing_hint=False)
        table = "  ".join(f"{n}: {v:.3g} ({s:.0%})" for n, v, s in zip(names, values, shares, strict=True))
        logger.info("iter %d: gradient at %s  %s", self.trainer.iter, self._path, table)

    def _measure(self, model: nn.Module, inputs: Any, output: Any) -> None:
        if not model.training or not torch.is_grad_enabled():
            return
        self._remove()
        losses = output if isinstance(output, Mapping) else {"total_loss": output}
        norms = gradient_norms(losses, self._parameters(), scale=self._scale())
        device = next(model.parameters()).device
        self._norms = {name: norm.to(device) for name, norm in norms.items()}

    def _remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _parameters(self) -> list[nn.Parameter]:
        model = plain_model(self.trainer.model)
        student = student_of(model)
        try:
            return [p for p in resolve(student, self._path).parameters() if p.requires_grad]
        except AddressError as error:
            raise ValueError(
                f"there is no shared module to measure the gradient's shares at: {error}"
            ) from None

    def _scale(self) -> float:
        scaler = getattr(getattr(self.trainer, "_trainer", self.trainer), "grad_scaler", None)
        return float(scaler.get_scale()) if scaler is not None else 1.0
