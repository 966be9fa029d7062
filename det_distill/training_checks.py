"""What would make a training useless, or end it with a message from deep inside torch: told before it begins."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.utils import comm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .taps import resolve
from .tasks import task_of
from .wrapping import student_of

__all__ = ["check_frozen", "check_synchronised_norms", "check_weights"]

logger = logging.getLogger(__name__)

_FREEZING = {"FREEZE_AT": 0, "FREEZE_NORM": False, "NORM": "BN"}
"""Keys of a backbone that freeze, and the values with which they do not."""

_ENCLOSING = ("bottom_up", "body", "features")


def check_weights(cfg: CfgNode) -> None:
    """See that ``MODEL.WEIGHTS``, if it names a file of this machine, is there.

    Raises:
        FileNotFoundError: it is not.
    """
    weights = cfg.MODEL.WEIGHTS
    if weights and "://" not in weights and not os.path.isfile(weights):
        raise FileNotFoundError(f"MODEL.WEIGHTS {weights!r}: there is no such file")


def check_frozen(cfg: CfgNode, model: nn.Module) -> None:
    """See that no part of a backbone is frozen that nothing was loaded into: it would keep its random weights.

    Frozen are parameters that get no gradient, detectron2's FrozenBatchNorm2d, and batch normalisation that stays in
    eval mode. What ``DISTILL.TRAIN_ONLY`` leaves out is frozen on purpose and not looked at.

    A detector may be wanted so for a trial, and a backbone of neither detectron2 nor det_distill may bring weights of
    its own: these get a warning.

    Args:
        cfg: the config of a training that begins without ``MODEL.WEIGHTS``.
        model: what it trains, in training mode.

    Raises:
        ValueError: a classifier with a frozen part; the message names it, and the keys that freeze.
    """
    if cfg.MODEL.META_ARCHITECTURE == "ParaphraserPretrainer":
        return
    frozen = list(_frozen(cfg, student_of(model)))
    if not frozen:
        return
    names = list(dict.fromkeys(part for part, _ in frozen))
    norms = sum("Norm" in type(module).__name__ for _, module in frozen)
    advice = " and ".join(_advice(cfg)) or "train all of it"
    message = (
        f"MODEL.WEIGHTS is '' and a part of the backbone is frozen, so it would keep its random weights: "
        f"{norms} norms and {len(frozen) - norms} other layers in {', '.join(names[:8])}"
        f"{', ...' if len(names) > 8 else ''}. Set {advice}, or name the file of trained weights in MODEL.WEIGHTS"
    )
    builder = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME).__module__
    if task_of(cfg).finds_boxes or builder.split(".")[0] not in ("detectron2", __package__):
        logger.warning(message)
        return
    raise ValueError(message)


def _frozen(cfg: CfgNode, student: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield each frozen module of the backbone, behind the part of it that it belongs to."""
    backbone = getattr(student, "backbone", None)
    if not isinstance(backbone, nn.Module):
        return
    distilled = cfg.MODEL.META_ARCHITECTURE == "Distiller" and cfg.DISTILL.ENABLED
    only = list(cfg.DISTILL.TRAIN_ONLY) if distilled else []
    trained = {m for path in only or ["backbone"] for m in resolve(student, path).modules()}
    for path, module in backbone.named_modules(prefix="backbone"):
        still = isinstance(module, FrozenBatchNorm2d) or (
            isinstance(module, _BatchNorm) and not module.training
        )
        own = module.parameters(recurse=False)
        if module in trained and (still or any(not p.requires_grad for p in own)):
            yield _part(path), module


def _part(path: str) -> str:
    """``backbone.bottom_up.res2.0.conv1`` -> backbone.bottom_up.res2."""
    names = path.split(".")
    end = 1
    while end < len(names) and names[end] in _ENCLOSING:
        end += 1
    return ".".join(names[: end + 1])


def _advice(cfg: CfgNode) -> Iterator[str]:
    """Yield the keys that freeze a part of the backbone, each with the value to set."""
    kind = (
        cfg.MODEL.BACKBONE.NAME.removeprefix("build_").removesuffix("_backbone").removesuffix("_fpn").upper()
    )
    nodes = {f"MODEL.{kind}": cfg.MODEL.get(kind)}
    if nodes[f"MODEL.{kind}"] is None:
        nodes = {"MODEL.BACKBONE": cfg.MODEL.BACKBONE, "MODEL.RESNETS": cfg.MODEL.RESNETS}
    for where, node in nodes.items():
        for key, harmless in _FREEZING.items():
            value = node.get(key, harmless)
            if value == "FrozenBN" or (key != "NORM" and value):
                yield f"{where}.{key} to {harmless!r} (it is {value!r})"


def check_synchronised_norms(cfg: CfgNode, model: nn.Module) -> None:
    """See that torch's synchronised batch normalisation, if several processes train with it, is on GPUs.

    Raises:
        ValueError: it is on the CPU; the message names the keys that ask for it.
    """
    if comm.get_world_size() == 1 or next(model.parameters()).device.type != "cpu":
        return
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        keys = ", ".join(_keys_of_synchronised_norms(cfg, "")) or "a norm of the model"
        raise ValueError(
            f"{keys}: torch's synchronised batch normalisation needs GPUs, and these processes train on the CPU: "
            "'naiveSyncBN' works there"
        )


def _keys_of_synchronised_norms(node: CfgNode, above: str) -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _keys_of_synchronised_norms(value, f"{above}{key}.")
        elif key == "NORM" and value in ("SyncBN", "nnSyncBN"):
            yield f"{above}{key} {value!r}"
