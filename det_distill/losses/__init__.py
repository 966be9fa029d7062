"""The losses: each is a module `loss(student, teacher, valid=None) -> scalar` on tensors, with no weight."""

from .arithmetic import unit_norm
from .attention import AttentionTransfer, attention_map
from .box_regression import BoxRegression
from .channel_wise import ChannelWise
from .darkrank import DarkRank
from .decoupled import DecoupledTarget
from .factor import FactorTransfer, scale_law
from .focal_global import FocalGlobal, GlobalRelation
from .fsp import FSP
from .input_gradient import FlipSymmetry, GradientAttention
from .logits import LogitRegression
from .masked_generation import MaskedGeneration
from .mimic import L2, LSH, limit_norm
from .pearson import Pearson
from .review import HierarchicalContext
from .soft_target import SoftTarget

__all__ = [
    "FSP",
    "L2",
    "LSH",
    "AttentionTransfer",
    "BoxRegression",
    "ChannelWise",
    "DarkRank",
    "DecoupledTarget",
    "FactorTransfer",
    "FlipSymmetry",
    "FocalGlobal",
    "GlobalRelation",
    "GradientAttention",
    "HierarchicalContext",
    "LogitRegression",
    "MaskedGeneration",
    "Pearson",
    "SoftTarget",
    "attention_map",
    "limit_norm",
    "scale_law",
    "unit_norm",
]
