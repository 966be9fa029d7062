"""One step of the optimizer: mixed precision and gradient accumulation for detectron2's `SimpleTrainer`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils import comm
from torch import Tensor, nn

from .wrapping import plain_model

__all__ = ["PRECISIONS", "TrainStep", "autocast", "pool_in_float32"]

PRECISIONS: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""The values of ``SOLVER.AMP.PRECISION``."""


def autocast(cfg: CfgNode) -> torch.autocast:
    """Return the mixed precision that a config trains in, as a context; without effect if it asks for none.

    A teacher of precision "auto" follows it. Losses leave it by themselves: they compute in float32.

    Raises:
        ValueError: ``SOLVER.AMP`` is enabled with an unknown precision, or with float16 on a device other than a GPU.
    """
    device, enabled = torch.device(cfg.MODEL.DEVICE).type, cfg.SOLVER.AMP.ENABLED
    precision = cfg.SOLVER.AMP.PRECISION
    if enabled and precision not in PRECISIONS:
        raise ValueError(
            f"SOLVER.AMP.PRECISION {precision!r} is unknown: choose one of {', '.join(PRECISIONS)}"
        )
    if enabled and precision == "float16" and device != "cuda":
        raise ValueError(
            f"SOLVER.AMP.PRECISION 'float16' needs a GPU, but MODEL.DEVICE is {device!r}: "
            "set SOLVER.AMP.PRECISION to 'bfloat16', or SOLVER.AMP.ENABLED to False"
        )
    return torch.autocast(device, dtype=PRECISIONS.get(precision, torch.bfloat16), enabled=enabled)


def pool_in_float32(model: nn.Module) -> None:
    """Make the RoI poolers of `model`, and of its teachers if it is distilled, take maps in half precision in float32.

    detectron2 rounds boxes to the type of the maps that it pools from: in bfloat16, a side at 1000 pixels by up to 2
    of them. The pooling itself is computed in float32 anyway.
    """
    teachers = getattr(plain_model(model), "teachers", {})
    for whole in (model, *(teacher.model for teacher in teachers.values())):
        for module in whole.modules():
            if isinstance(module, ROIPooler):
                module.register_forward_pre_hook(_float_maps)


def _nothing() -> None:
    pass


def _on_cpu(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same on the CPU, brought there all at once."""
    return dict(zip(losses, torch.stack([v.float() for v in losses.values()]).cpu(), strict=True))


def _float_maps(pooler: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    maps, *boxes = arguments
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in maps], *boxes


class TrainStep(SimpleTrainer):
    """`SimpleTrainer` whose step may be computed in parts and in mixed precision.

    The batch is a list of samples. It is split, in its order, into `parts` lists of equal length, which are computed
    one after the other; their losses are divided by `parts` and the gradients summed. So the gradient is that of the
    whole batch wherever the loss is a mean over samples; whatever looks at a batch as a whole, such as batch
    normalisation or a loss on relations between images, sees a part. The losses that are logged are the means over
    the parts. Processes exchange gradients once a step, with the last part.

    In bfloat16 gradients keep float32's range and need no scaling; in float16 a gradient scaler scales the loss and
    skips a step whose gradient overflows. It is part of the state. Gradients are unscaled before they are clipped.
    Boxes stay exact in both, also for teachers of a precision of their own, see `pool_in_float32`.

    With one part and without mixed precision the step is `SimpleTrainer`'s.

    Args:
        model: called with a list of samples; returns losses by name, or one loss.
        data_loader: yields batches.
        optimizer: detectron2's clipping of gradients lies in its ``step``.
        parts: at least 1; a batch is a multiple of it.
        cfg: for `autocast`; None: float32.

    Raises:
        ValueError: fewer parts than 1; see `autocast`; in a step: a batch that is no multiple of `parts`.
        FloatingPointError: in a step: a loss that is not finite.
    """

    grad_scaler: torch.amp.GradScaler | None

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        parts: int = 1,
        cfg: CfgNode | None = None,
    ) -> None:
        if parts < 1:
            raise ValueError(f"SOLVER.ACCUMULATE {parts}: a batch is computed in at least 1 part")
        self._cfg, self._parts = cfg, parts
        self._autocast()  # checks the config before anything runs
        scaled = cfg is not None and cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.PRECISION == "float16"
        self.grad_scaler = torch.amp.GradScaler("cuda") if scaled else None
        pool_in_float32(model)
        super().__init__(model, data_loader, optimizer)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, model: nn.Module, data_loader: Iterable[Any], optimizer: torch.optim.Optimizer
    ) -> TrainStep:
        """Return the step that ``SOLVER.AMP`` and ``SOLVER.ACCUMULATE`` describe.

        Raises:
            ValueError: the images of a process cannot be split into equal parts; see the class.
        """
        parts, processes = cfg.SOLVER.ACCUMULATE, comm.get_world_size()
        images = cfg.SOLVER.IMS_PER_BATCH // processes
        if parts > 1 and images % parts:
            raise ValueError(
                f"SOLVER.ACCUMULATE {parts}: {images} images ({cfg.SOLVER.IMS_PER_BATCH} in {processes} process"
                f"{'es' * (processes > 1)}) cannot be split into {parts} equal parts; set SOLVER.IMS_PER_BATCH to a "
                f"multiple of {parts * processes}"
            )
        return cls(model, data_loader, optimizer, parts=parts, cfg=cfg)

    def run_step(self) -> None:
        """Compute the losses and gradients of the next batch, part by part, log them, and let the optimizer step."""
        if not self.model.training:
            raise RuntimeError("the model is in eval mode: something switched it over and did not restore it")
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        logged: dict[str, Tensor] = {}
        for part, is_last in self._split(batch):
            with self._exchange(is_last):
                with self._autocast():
                    losses = self._losses(part)
                    total = sum(losses.values()) / self._parts
                self._backward(total)
                getattr(self, "after_backward", _nothing)()  # detectron2 0.6 has no such hook
            for name, value in losses.items():
                logged[name] = logged.get(name, 0.0) + value.detach() / self._parts
        self._write_metrics(_on_cpu(logged), data_time)
        self._optimize()

    def _split(self, batch: Any) -> Iterator[tuple[Any, bool]]:
        """The parts of a batch, and whether it is the last one."""
        if self._parts == 1:
            yield batch, True
            return
        size, rest = divmod(len(batch), self._parts)
        if rest or not size:
            raise ValueError(
                f"a batch of {len(batch)} images cannot be split into SOLVER.ACCUMULATE {self._parts} equal parts"
            )
        for part in range(self._parts):
            yield batch[part * size : (part + 1) * size], part == self._parts - 1

    def _losses(self, part: Any) -> Mapping[str, Tensor]:
        losses = self.model(part)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _backward(self, total: Any) -> None:
        (total if self.grad_scaler is None else self.grad_scaler.scale(total)).backward()

    def _optimize(self) -> None:
        if self.grad_scaler is None:
            self.optimizer.step()
            return
        self.grad_scaler.unscale_(self.optimizer)  # the optimizer's step may clip them
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._cfg is None else autocast(self._cfg)

    def _exchange(self, is_last: bool) -> AbstractContextManager[Any]:
        """Keeps DistributedDataParallel from exchanging gradients before the last part's."""
        distributed = isinstance(self.model, nn.parallel.DistributedDataParallel)
        return self.model.no_sync() if distributed and not is_last else nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Return `SimpleTrainer`'s state, and the gradient scaler's."""
        state = super().state_dict()
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; a run that was not scaled before begins with a new scaler."""
        super().load_state_dict(state_dict)
        if self.grad_scaler is not None and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
