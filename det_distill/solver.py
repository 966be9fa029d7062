"""The config keys of training that detectron2 does not have."""

from __future__ import annotations

from detectron2.config import CfgNode

__all__ = ["add_solver_config"]


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
