"""Soft targets and logits: what the teacher says of the classes."""

from __future__ import annotations

from typing import Literal

from torch import nn

from ..adapters import LogitEnsemble, LogitNoise
from ..losses import DecoupledTarget, LogitRegression, SoftTarget
from .sides import Parts, Side

Kind = Literal["none", "logits", "probabilities", "log_probabilities"]


def soft_target(
    student: Side,
    teacher: Side,
    *,
    temperature: float = 4.0,
    distribution: Literal["auto", "softmax", "bernoulli"] = "auto",
    ensemble: Kind = "probabilities",
) -> Parts:
    """Soft targets, Hinton, Vinyals and Dean: the divergence of softened class probabilities, times T^2.

    Args:
        student: the student's class logits: vectors of a classifier or of RoIs, or maps of a dense head.
        teacher: the teacher's, of the same classes.
        temperature: T. 4 is usual in classification, 1 on ImageNet and on RoIs; see `SoftTarget`.
        distribution: ``"softmax"`` over the channels, ``"bernoulli"`` (a sigmoid for each channel, as in RetinaNet and
            in region proposal networks), or ``"auto"``: softmax for vectors, Bernoulli for maps.
        ensemble: several teachers' target, see `LogitEnsemble`; ``"none"``: a pair for each teacher.

    Raises:
        ValueError: a backbone's features, unequal numbers of classes, or an option that makes no sense.
    """
    _check_classes(student, teacher)
    loss = SoftTarget(temperature, distribution)
    return Parts(loss, ensemble=_ensemble(ensemble, temperature, distribution))


def logit_regression(
    student: Side,
    teacher: Side,
    *,
    centre: bool = False,
    sigma: float = 0.0,
    alpha: float = 0.5,
    draw: Literal["sample", "batch"] = "sample",
    random_sigma: bool = False,
    seed: int = 0,
    ensemble: Kind = "logits",
) -> Parts:
    """Logit regression, and with noise on the teacher's logits the noisy teacher of Sau and Balasubramanian.

    Args:
        student: the student's class logits.
        teacher: the teacher's, of the same classes.
        centre: subtract each row's mean logit first.
        sigma: standard deviation of the noise that multiplies the teacher's logits; 0: none.
        alpha: probability with which a sample gets noise.
        draw: ``"sample"`` (each chosen sample its own noise) or ``"batch"`` (one for all of them).
        random_sigma: draw sigma anew for each batch, between 0.01 and 1; `sigma` is not read then.
        seed: of the noise.
        ensemble: several teachers' target, see `LogitEnsemble`; ``"none"``: a pair for each teacher.

    Raises:
        ValueError: a backbone's features, unequal numbers of classes, or an option that makes no sense.
    """
    _check_classes(student, teacher)
    noise = LogitNoise(sigma, alpha, draw=draw, random_sigma=random_sigma, seed=seed)
    noisy = random_sigma or sigma > 0
    return Parts(
        LogitRegression(centre=centre),
        teacher_adapter=noise if noisy else None,
        ensemble=_ensemble(ensemble, 1.0, "auto"),
    )


def decoupled_target(
    student: Side,
    teacher: Side,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Parts:
    """Decoupled soft targets, Zhao and others (megvii-research/mdistiller).

    The defaults are the authors' for CIFAR-100; theirs for Faster R-CNN are alpha 1, beta 0.25, temperature 1.

    Args:
        student: the student's class logits, vectors with a label each.
        teacher: the teacher's, of the same classes.
        alpha: weight of the labelled class against the others.
        beta: weight of the classes other than the label.
        temperature: softens both.

    Raises:
        ValueError: a backbone's features, unequal numbers of classes, maps, or an option that makes no sense.
    """
    if student.is_map:
        raise ValueError(
            f"{student.address!r}: DecoupledTarget needs a label for each row of logits, and a map has none; use "
            "SoftTarget for dense heads"
        )
    _check_classes(student, teacher)
    return Parts(DecoupledTarget(alpha, beta, temperature))


def _ensemble(
    kind: Kind, temperature: float, distribution: Literal["auto", "softmax", "bernoulli"]
) -> nn.Module | None:
    return None if kind == "none" else LogitEnsemble(kind, temperature, distribution)


def _check_classes(student: Side, teacher: Side) -> None:
    for side in (student, teacher):
        if side.address.partition(":")[0].partition(".")[0] == "backbone":
            raise ValueError(
                f"{side.address!r} gives features, and this method compares class logits: name 'classifier', "
                "'roi_heads.box_predictor:0', or a dense head such as 'head:0:1'"
            )
    own, its = student.spec.channels, teacher.spec.channels
    if own and its and own != its:
        raise ValueError(
            f"the student's {student.address!r} has {own} logits, the teacher's {teacher.address!r} has {its}: they "
            "can be compared only if they are of the same classes (and, in dense heads, of the same anchors). Take a "
            "teacher that was trained on the student's classes, or pair features in place of logits"
        )
