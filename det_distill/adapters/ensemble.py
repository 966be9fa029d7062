"""Several teachers' logits become one teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..losses.inputs import full_precision
from ..losses.soft_target import Distribution, check_distribution, is_bernoulli

Kind = Literal["logits", "probabilities", "log_probabilities"]


class LogitEnsemble(nn.Module):
    """One set of logits z for those z_1 ... z_n of n teachers, all (R, K) or all (B, K, H, W).

        "logits"              z = mean_k z_k
        "probabilities"       z = T log mean_k softmax(z_k / T)
        "log_probabilities"   z = T mean_k log softmax(z_k / T)

    softmax(z / T) is, for "probabilities", the arithmetic mean of the teachers' probabilities at temperature T:
    `SoftTarget` at that T has the gradient of the mean of its values for the single teachers. For the other two it
    is their geometric mean, made to sum to one; these two differ by a constant per row, which only
    `LogitRegression` without centring sees. For sigmoid heads ("bernoulli", and "auto" on maps) the means are
    taken of each channel's probability and come back as its logit; there the last kind is "logits". Log-sums of
    log-probabilities are used throughout, in float32. A single teacher's logits come back as they are.

    The noisy-teachers paper (Sau and Balasubramanian, 2016) takes as the target of several teachers the geometric
    mean of their logits. That is undefined where logits are negative; "logits" stands in for it, being the
    geometric mean of the probabilities.

    Args:
        kind: "logits", "probabilities" or "log_probabilities".
        temperature: T, that of the loss behind; of no account for "logits".
        distribution: "softmax", "bernoulli", or "auto": "softmax" for rows, "bernoulli" for maps.
    """

    def __init__(
        self, kind: Kind = "logits", temperature: float = 1.0, distribution: Distribution = "auto"
    ) -> None:
        super().__init__()
        if kind not in ("logits", "probabilities", "log_probabilities"):
            raise ValueError(
                f'LogitEnsemble knows the kinds "logits", "probabilities" and "log_probabilities", not {kind!r}.'
            )
        if not temperature > 0:
            raise ValueError(f"LogitEnsemble: the temperature must be above 0, not {temperature}.")
        check_distribution("LogitEnsemble", distribution)
        self.kind, self.temperature, self.distribution = kind, temperature, distribution

    def forward(self, logits: Sequence[Tensor]) -> Tensor:
        """Return one tensor of the shape that all `logits` have.

        Raises:
            ValueError: no teacher, or unequal shapes.
        """
        shapes = {tuple(z.shape) for z in logits}
        if len(shapes) != 1:
            raise ValueError(
                "LogitEnsemble combines teachers of the same classes on the same images, with logits of one shape; "
                f"these have {', '.join(map(str, sorted(shapes))) or 'no teacher at all'}."
            )
        if len(logits) == 1:
            return logits[0]
        with full_precision(logits[0]):
            stack = torch.stack([z.to(torch.promote_types(z.dtype, torch.float32)) for z in logits])
            bernoulli = is_bernoulli(self.distribution, logits[0])
            if self.kind == "logits" or (self.kind == "log_probabilities" and bernoulli):
                return stack.mean(0)
            stack = stack / self.temperature
            if self.kind == "log_probabilities":
                return self.temperature * F.log_softmax(stack, 2).mean(0)
            if bernoulli:
                odds = F.logsigmoid(stack).logsumexp(0) - F.logsigmoid(-stack).logsumexp(0)
                return self.temperature * odds
            return self.temperature * (F.log_softmax(stack, 2).logsumexp(0) - math.log(len(logits)))

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(ensemble)`."""
        return f"{self.kind!r}, temperature={self.temperature}, distribution={self.distribution!r}"
