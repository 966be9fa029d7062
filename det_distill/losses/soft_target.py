"""Soft targets: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015.

The student's class probabilities are pulled to the teacher's, both softened by a temperature. Heads that end in
a softmax have one distribution over all classes; heads that end in sigmoids (RetinaNet's classes, the objectness
of a region proposal network) have one of two outcomes, yes or no, for each channel.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from .arithmetic import divergence
from .inputs import full_precision, image_mean, prepare

Distribution = Literal["auto", "softmax", "bernoulli"]


def bernoulli_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(p || q) of yes-or-no outcomes with p = sigmoid(teacher), q = sigmoid(student), element by element.

    Taken from log sigmoid(z) and log sigmoid(-z), which overflow nowhere: for p = 1 it grows as -student.
    """
    yes = divergence(F.logsigmoid(teacher), F.logsigmoid(student))
    return yes + divergence(F.logsigmoid(-teacher), F.logsigmoid(-student))


def softmax_divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(p || q), p and q the softmax of the two over dimension 1, which is summed: (R, K, ...) to (R, ...)."""
    return divergence(F.log_softmax(teacher, 1), F.log_softmax(student, 1)).sum(1)


class SoftTarget(nn.Module):
    """Kullback-Leibler divergence of the student's softened probabilities q from the teacher's, p, times T^2.

        "softmax"     T^2 KL(p || q),  p = softmax(z_t / T),  q = softmax(z_s / T)     summed over classes
        "bernoulli"   T^2 sum_c KL(p_c || q_c),  p_c = sigmoid(z_t,c / T),  q_c = sigmoid(z_s,c / T)
        "auto"        "softmax" for rows, "bernoulli" for maps

    Of logits (R, K) the value is the mean over rows: divided by R, not by R * K. Of maps (B, K, H, W) every cell
    is a row: the mean over the valid cells of each image, then over images. Zero with zero gradient where the
    logits agree, for "softmax" also where they differ by a constant. KL and cross entropy with the teacher's
    probabilities differ by the teacher's entropy alone and have the same gradient.

    The gradient of one row's term with respect to its logits is T (q - p), divided by R. For large T and
    "softmax" that tends to 1 / K times `LogitRegression`'s with centred logits, for "bernoulli" to 1 / 4 times
    its gradient with raw ones. T^2 keeps the size of the gradient, hence the meaning of a weight, when T changes.

    The default T = 4 is that of most public codes for classification (szagoruyko/attention-transfer 893df54,
    HobbitLong/RepDistiller b84f547, AberHu/Knowledge-Distillation-Zoo 65470c8, and megvii-research/mdistiller
    a08d46f on CIFAR-100); on ImageNet, T = 1 is usual (mdistiller, open-mmlab/mmrazor 90c7af1,
    yoshitomo-matsubara/torchdistill 3e4373c), as is it on the RoIs of Faster R-CNN (mdistiller, for the decoupled
    form). The teacher's side is detached, arithmetic is in float32 on log-probabilities, no rows give 0.

    Source: mdistiller (a08d46f) `mdistiller/distillers/KD.py::kd_loss`; the Bernoulli form is the same divergence
    for sigmoids. Not implemented: the cross entropy with labels, which is the student's own loss, and the
    codes that divide by the number of classes too (attention-transfer until July 2018).

    Args:
        temperature: T.
        distribution: "softmax", "bernoulli" or "auto".
    """

    def __init__(self, temperature: float = 4.0, distribution: Distribution = "auto") -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"SoftTarget: the temperature must be above 0 (4 is usual), not {temperature}.")
        check_distribution("SoftTarget", distribution)
        self.temperature, self.distribution = temperature, distribution

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare logits of two equal shapes (R, K) or (B, K, H, W); see the class. Returns a scalar."""
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            if student.numel() == 0:
                return student.sum() * 0
            soft_student, soft_teacher = student / self.temperature, teacher / self.temperature
            if is_bernoulli(self.distribution, student):
                per_cell = bernoulli_divergence(soft_teacher, soft_student).sum(1)
            else:
                per_cell = softmax_divergence(soft_teacher, soft_student)
            return self.temperature**2 * image_mean(per_cell, valid)

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"temperature={self.temperature}, distribution={self.distribution!r}"


def check_distribution(owner: str, distribution: str) -> None:
    """Raise a ValueError in the name of `owner` unless `distribution` is one that `is_bernoulli` knows."""
    if distribution not in ("auto", "softmax", "bernoulli"):
        raise ValueError(
            f'{owner} knows the distributions "auto", "softmax", "bernoulli", not {distribution!r}.'
        )


def is_bernoulli(distribution: str, logits: Tensor) -> bool:
    """Whether each channel of `logits` is an outcome of its own; "auto": where they are a map."""
    return distribution == "bernoulli" or (distribution == "auto" and logits.dim() == 4)
