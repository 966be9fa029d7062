"""Decoupled soft targets: Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022.

The divergence of soft targets is the sum of one about the labelled class against all others and one among the
others, and the latter is weighted by the teacher's doubt about the label. Here each has a weight of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .inputs import full_precision, prepare
from .soft_target import bernoulli_divergence, softmax_divergence


class DecoupledTarget(nn.Module):
    """alpha * TCKD + beta * NCKD, both softened by T, with y the labelled class of each row.

        TCKD = T^2 KL((p_y, 1 - p_y) || (q_y, 1 - q_y))      p = softmax(z_t / T),  q = softmax(z_s / T)
        NCKD = T^2 KL(p' || q')                              p', q': softmax of the logits other than y's

    Both are summed over their outcomes; the value is the mean over the R rows. For alpha = 1 and beta =
    1 - p_y (of each row) it would be `SoftTarget`. Zero with zero gradient where the logits agree or differ
    by a constant per row. With one class there is nothing to compare: 0. The teacher's side is detached,
    arithmetic is in float32, no rows give 0. Maps are not taken: a cell has no label.

    (p_y, 1 - p_y) is the sigmoid of z_y / T minus the log-sum-exp of the other logits, so both terms are taken
    from log-probabilities and stay exact and finite for any logits. The authors take the logarithm of a
    probability for TCKD, which is infinite once that is rounded to 0, and leave the label out of NCKD by
    subtracting 1000 from its logit, which does so only for ordinary logits.

    Source: megvii-research/mdistiller (a08d46f) `mdistiller/distillers/DKD.py::dkd_loss`. The defaults are the
    authors' for CIFAR-100 (`mdistiller/engine/cfg.py`; their configs set beta between 2 and 8 by pair of models,
    the weight grows over 20 epochs). Elsewhere they differ: on ImageNet T = 1 with beta 0.5 (ResNet-34 to 18)
    or 2; on Faster R-CNN, on all sampled RoIs, the background a class like others, alpha = 1, beta = 0.25, T = 1
    and no further weight (`detection/model/config.py`, `detection/model/rcnn.py`).

    Args:
        alpha: weight of the labelled class against the others.
        beta: weight of the classes other than the label.
        temperature: T.
    """

    needs = ("labels",)

    def __init__(self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"DecoupledTarget: the temperature must be above 0, not {temperature}.")
        if min(alpha, beta) < 0 or max(alpha, beta) == 0:
            raise ValueError(
                f"DecoupledTarget: alpha and beta are weights, none negative and not both zero: {alpha}, {beta}."
            )
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(
        self, student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, labels: Tensor
    ) -> Tensor:
        """Compare logits (R, K) of rows with `labels` int64 (R,), each below K; see the class. Returns a scalar.

        Raises:
            ValueError: the shapes differ, or are maps.
        """
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid)
            _check(student, labels)
            if student.numel() == 0 or student.shape[1] == 1:
                return student.sum() * 0
            ours, our_others = _split(student / self.temperature, labels)
            theirs, their_others = _split(teacher / self.temperature, labels)
            target = bernoulli_divergence(theirs, ours)
            others = softmax_divergence(their_others, our_others)
            return self.temperature**2 * (self.alpha * target + self.beta * others).mean()

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        return f"alpha={self.alpha}, beta={self.beta}, temperature={self.temperature}"


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The log-odds of each row's label (R,), and the logits of the other classes (R, K - 1)."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, columns + (columns >= labels[:, None]))
    return logits.gather(1, labels[:, None])[:, 0] - others.logsumexp(1), others


def _check(student: Tensor, labels: Tensor) -> None:
    if student.dim() != 2:
        raise ValueError(
            f"DecoupledTarget compares class logits of rows (R, K), each with a label, not maps "
            f"{tuple(student.shape)}; for a dense head use SoftTarget."
        )
    if labels.shape != student.shape[:1]:
        raise ValueError(
            f"DecoupledTarget: {len(student)} rows of logits want as many labels, not {tuple(labels.shape)}."
        )
