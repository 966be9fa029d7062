"""Optimizers by name, and the config keys of training that detectron2 does not have."""

from __future__ import annotations

import torch
from detectron2 import solver
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

__all__ = ["OPTIMIZERS", "add_solver_config", "build_lr_scheduler", "build_optimizer"]

OPTIMIZERS = ("SGD", "Adam", "AdamW")
"""The values of ``SOLVER.OPTIMIZER``."""


def add_solver_config(cfg: CfgNode) -> None:
    """Add the keys, with their defaults, to a detectron2 config, in place."""
    # "SGD", "Adam" or "AdamW"
    cfg.SOLVER.OPTIMIZER = "SGD"
    # SOLVER.AMP.ENABLED: compute in "float16" (GPU) or "bfloat16" (GPU and CPU)
    cfg.SOLVER.AMP.PRECISION = "float16"
    # parts that a batch of IMS_PER_BATCH images is computed in, one after the other, before a step of the optimizer
    cfg.SOLVER.ACCUMULATE = 1
    # DECAY: of the moving average of the student's weights, measured and saved beside them; 0: none.
    # WARMUP: it begins lower, at (1 + n) / (10 + n) after n steps
    cfg.SOLVER.EMA = CfgNode({"DECAY": 0.0, "WARMUP": True})
    # a backend of torch.compile for backbones, such as "inductor"; "": not compiled
    cfg.MODEL.COMPILE = ""
    # what an evaluation measures, such as "classification/top1": the best student so far is kept in model_best.pth
    cfg.TEST.BEST = ""


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that ``SOLVER`` describes, over the parameters of `model` that are trained.

    SGD is detectron2's own. Adam and AdamW get the same groups (``WEIGHT_DECAY_NORM``, ``WEIGHT_DECAY_BIAS``,
    ``BIAS_LR_FACTOR``) and the same clipping of gradients, and torch's betas and epsilon; ``MOMENTUM`` and ``NESTEROV``
    are SGD's alone.

    Raises:
        ValueError: an unknown name.
    """
    name, node = cfg.SOLVER.OPTIMIZER, cfg.SOLVER
    if name not in OPTIMIZERS:
        raise ValueError(f"SOLVER.OPTIMIZER {name!r} is unknown: choose one of {', '.join(OPTIMIZERS)}")
    if name == "SGD":
        return solver.build_optimizer(cfg, model)
    groups = get_default_optimizer_params(
        model,
        base_lr=node.BASE_LR,
        weight_decay_norm=node.WEIGHT_DECAY_NORM,
        bias_lr_factor=node.BIAS_LR_FACTOR,
        weight_decay_bias=node.WEIGHT_DECAY_BIAS,
    )
    kind = maybe_add_gradient_clipping(cfg, getattr(torch.optim, name))
    return kind(groups, lr=node.BASE_LR, weight_decay=node.WEIGHT_DECAY)


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return detectron2's schedule of ``SOLVER.LR_SCHEDULER_NAME``.

    Raises:
        ValueError: an unknown name; the message lists those that the installed detectron2 has.
    """
    name, known = cfg.SOLVER.LR_SCHEDULER_NAME, ["WarmupMultiStepLR", "WarmupCosineLR"]
    if "NUM_DECAYS" in cfg.SOLVER:  # behind 0.6
        known.append("WarmupStepWithFixedGammaLR")
    try:
        return solver.build_lr_scheduler(cfg, optimizer)
    except ValueError as error:
        if name in known:
            raise
        raise ValueError(
            f"SOLVER.LR_SCHEDULER_NAME {name!r} is unknown: choose one of {', '.join(known)}"
        ) from error
