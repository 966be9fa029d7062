"""detectron2's feature pyramid around any of this package's backbones, as a config asks for it."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.modeling.backbone import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool


def build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """The FPN of ``MODEL.FPN`` on ``bottom_up``, with one more by subsampling, as on detectron2's ResNets.

    A feature of stride ``2**k`` becomes level ``p<k>``.

    Raises:
        ValueError: ``MODEL.FPN.IN_FEATURES`` is empty or names a feature that ``bottom_up`` does not return.
    """
    wanted, offered = list(cfg.MODEL.FPN.IN_FEATURES), list(bottom_up.output_shape())
    if not wanted or not set(wanted) <= set(offered):
        raise ValueError(f"MODEL.FPN.IN_FEATURES {wanted} must name features of the backbone, {offered}.")
    shapes = bottom_up.output_shape()
    top = LastLevelMaxPool()
    top.in_feature = f"p{(max(shapes[f].stride for f in wanted)).bit_length() - 1}"
    return FPN(
        bottom_up=bottom_up,
        in_features=wanted,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def last_input(cfg: CfgNode, features: Sequence[str]) -> str:
    """The last of `features`, which are in the order of the network, that ``MODEL.FPN.IN_FEATURES`` names.

    A backbone below an FPN ends there: what lies behind would get no gradient. Where none is named it is the last of
    all, and :func:`build_fpn` says what is wrong.
    """
    named = [name for name in features if name in cfg.MODEL.FPN.IN_FEATURES]
    return (named or features)[-1]
