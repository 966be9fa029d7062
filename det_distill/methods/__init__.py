"""The list of methods: name -> adapters and loss, one function per method.

A method is a function of the two sides and keyword options. Its options are the pair's options in a config, in upper
case: ``RATE: 0.5`` is ``rate=0.5``. To add a method, write a function in a file of this folder and name it in
`METHODS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from .boxes import box_regression
from .detection import focal_global, masked_generation, review_fusion
from .factor import factor_transfer
from .feed import feed
from .hints import fitnets
from .logits import decoupled_target, logit_regression, soft_target
from .maps import attention_transfer, channel_wise, pearson
from .mimic import feature_mimicking
from .ranking import dark_rank
from .relations import flip_symmetry, fsp, gradient_attention
from .sides import Parts, Side, channel_adapter

__all__ = ["METHODS", "Parts", "Side", "channel_adapter", "method_options"]

METHODS: dict[str, Callable[..., Parts]] = {
    "BoxRegression": box_regression,
    "DecoupledTarget": decoupled_target,
    "LogitRegression": logit_regression,
    "SoftTarget": soft_target,
    "AttentionTransfer": attention_transfer,
    "ChannelWise": channel_wise,
    "DarkRank": dark_rank,
    "FEED": feed,
    "FactorTransfer": factor_transfer,
    "FSP": fsp,
    "FeatureMimicking": feature_mimicking,
    "FitNets": fitnets,
    "FlipSymmetry": flip_symmetry,
    "GradientAttention": gradient_attention,
    "Pearson": pearson,
    "FocalGlobal": focal_global,
    "MaskedGeneration": masked_generation,
    "ReviewFusion": review_fusion,
}


def method_options(name: str) -> dict[str, object]:
    """Return a method's options and their defaults.

    Raises:
        ValueError: an unknown method; the message lists the known ones.
    """
    if name not in METHODS:
        raise ValueError(f"METHOD {name!r} is unknown; choose one of {', '.join(sorted(METHODS))}")
    parameters = inspect.signature(METHODS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
