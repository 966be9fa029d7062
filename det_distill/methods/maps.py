"""Attention transfer, channel-wise distillation and Pearson correlation: losses on a pair of feature maps."""

from __future__ import annotations

from typing import Literal

from ..losses import AttentionTransfer, ChannelWise, Pearson
from .sides import Parts, Side, channel_adapter


def attention_transfer(
    student: Side,
    teacher: Side,
    *,
    map: Literal["sum", "sum_p", "max_p"] = "sum_p",
    p: float = 2.0,
    outer: Literal["mse", "l2", "scaled"] = "mse",
) -> Parts:
    """Attention transfer, Zagoruyko and Komodakis, ICLR 2017 (szagoruyko/attention-transfer).

    No adapter: an attention map has no channels, so the two features may differ in them. The authors pair the outputs
    of all groups of a network, on CIFAR before the last ReLU, with one weight of 1000, and add soft targets.

    Args:
        student: the student's map.
        teacher: the teacher's map.
        map: how a map of channels becomes one of attention, see `attention_map`.
        p: power of ``"sum_p"`` and ``"max_p"``.
        outer: how two attention maps are compared, see `AttentionTransfer`; ``"scaled"`` makes one weight mean the same
            on maps of every size.

    Raises:
        ValueError: an unknown choice, vectors, or several addresses for one pair.
    """
    for side in (student, teacher):
        side.need_maps("AttentionTransfer")
        _ = side.address  # of several this raises
    return Parts(AttentionTransfer(map, p, outer))


def channel_wise(student: Side, teacher: Side, *, temperature: float = 1.0, adapter: str = "auto") -> Parts:
    """Channel-wise distillation, Shu et al., ICCV 2021 (irfanICMLL/TorchDistiller, pppppM/mmdetection-distiller).

    Args:
        student: the student's map, for example a level of the FPN, or a map of logits.
        teacher: the teacher's map.
        temperature: of the softmax over cells; 1 in the authors' detection code, 4 on their logits of segmentation.
        adapter: ``"auto"`` (a 1x1 convolution of the student's channels where they differ, as the authors do),
            ``"linear"`` (always) or ``"none"``.

    Raises:
        ValueError: an unknown choice, vectors, or a temperature that is not above zero.
    """
    for side in (student, teacher):
        side.need_maps("ChannelWise")
    return Parts(ChannelWise(temperature), channel_adapter(student, teacher, adapter, maps=True))


def pearson(student: Side, teacher: Side, *, adapter: str = "auto") -> Parts:
    """Imitation by Pearson correlation (PKD), Cao et al., NeurIPS 2022 (open-mmlab/mmrazor).

    Args:
        student: the student's feature, for example a level of the FPN.
        teacher: the teacher's feature.
        adapter: ``"auto"`` (a linear map of the student's channels where they differ), ``"linear"`` (always) or
            ``"none"``. The authors have none: in the FPNs that they pair the channels are equal.

    Raises:
        ValueError: an unknown choice.
    """
    return Parts(Pearson(), channel_adapter(student, teacher, adapter))
