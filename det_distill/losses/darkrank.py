"""DarkRank: Chen, Wang, Zhang, "DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities
Transfer", AAAI 2018. The student ranks the other samples of a batch, seen from a query, as the teacher does.
"""

from __future__ import annotations

from functools import partial
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor, nn

from .arithmetic import directions, divergence, in_parts
from .inputs import full_precision, prepare

Mode = Literal["hard", "soft"]
Candidates = Literal["nearest", "all"]
Queries = Literal["all", "first_half", "spaced", "drawn"]

LONGEST_SOFT_LIST = 5
"""Candidates that soft transfer orders in every way: 5! = 120 orderings."""


def log_likelihood(scores: Tensor) -> Tensor:
    """Log-probability (...,) of the order in which `scores` (..., L) stand, by Plackett and Luce.

    Sum over k of score_k - log(sum over l >= k of exp(score_l)): each place is drawn, by a softmax, from what is left.
    """
    left = scores.flip(-1).logcumsumexp(-1).flip(-1)
    return (scores - left).sum(-1)


class DarkRank(nn.Module):
    """Likelihood, by the student, of the teacher's ranking of the other samples.

        f = F / ||F||_2           embeddings (R, D) of both sides; the widths may differ, only distances count
        S_i = -alpha * ||f_q - f_i||_2^beta                    score of candidate i for query q
        P(pi) = prod_k exp(S_pi(k)) / sum_{l >= k} exp(S_pi(l))          of an ordering pi of q's list

        "hard"   -log P_s(pi*), pi* the list by increasing distance in the teacher        (ListMLE)
        "soft"   KL(P_t || P_s) = sum over all orderings pi of P_t(pi) * (log P_t(pi) - log P_s(pi))   (ListNet)

    The value is the mean over queries; it is not divided by the length of the list. "soft" is zero with zero
    gradient where the distances agree; "hard" never is: it is a likelihood. Both are unchanged by a rotation or a
    positive factor of either side's embeddings, and, where every sample is a query, by their order.

    A query's list is the `list_length` samples nearest to it in the teacher ("nearest"), or all others ("all", hard
    only). Denominators run over the list alone, and the query itself is never in it, told by its place in the batch,
    not by its distance. With fewer samples the list is shorter; fewer than 3 leave nothing to rank and give 0,
    attached to the graph. "spaced" queries are `query_count` rows at even distances, the same at each call; "drawn"
    ones come from torch's global generator at each call. All others are deterministic. Of equal distances the lower
    row comes first.

    Maps (B, C, H, W) are averaged over their cells first, with `valid` over the valid cells of each image: the
    authors' embedding is such an average. An image without a valid cell has a zero embedding.

    Distances below 1e-6 count as 1e-6 and have no gradient, nor has an embedding shorter than 1e-6, which counts as
    zero. Everything is in log space and in float32; the teacher's side is detached.

    Sources. The paper: alpha = beta = 3, hard transfer recommended; its loss weight could not be confirmed.
    lenscloth/RKD (0a6c3c0) `metric/loss.py` `HardDarkRank`: the defaults here, but on embeddings that were normalised
    before, which is `normalize=False`; its command line has alpha = 2. TuSimple/DarkRank (5e6a74f), the paper's
    repository:

    * `PYOP/listmle_loss.py` is "hard" with candidates "all", `PYOP/listnet_loss.py` is "soft" but for a constant (the
      teacher's entropy, without gradient); both with queries "first_half", the half of a batch that holds pairs.
    * Its `power` and `scale` act on squared distances: alpha = scale^power, beta = 2 * power. The command in its
      readme (power 2, scale 3.5, list length 4, weight 16, soft) is alpha = 12.25, beta = 4, not the paper's setting.
    * Its gradients leave out the query's share: `detach_query`. The full one is the default.
    * Its products of probabilities plus 1e-12 let the reported loss end at 27.6; log space does not.

    Not implemented: the direct regression of scores, an ablation of the paper.

    Args:
        alpha: factor of the score, above 0.
        beta: exponent of the distance, above 0.
        mode: "hard" or "soft".
        candidates: "nearest" or "all".
        list_length: of "nearest", at least 2; in soft mode at most 5.
        queries: "all", "first_half" (rounded down), "spaced" or "drawn". Where there are very many rows, such as RoIs,
            the last two save time.
        query_count: of "spaced" and "drawn"; all rows where there are fewer.
        detach_query: leave out the gradient through the query's embedding.
        normalize: divide embeddings by their norm. False takes them as they are, for models that normalise theirs; on
            unit vectors the value is the same, and the gradient is the one before it is projected off the embedding.

    Raises:
        ValueError: an unknown choice, or a number out of its range.
    """

    needs_equal_channels = False

    def __init__(
        self,
        alpha: float = 3.0,
        beta: float = 3.0,
        *,
        mode: Mode = "hard",
        candidates: Candidates = "nearest",
        list_length: int = 4,
        queries: Queries = "all",
        query_count: int = 64,
        detach_query: bool = False,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        if alpha <= 0 or beta <= 0:
            raise ValueError(f"DarkRank needs alpha and beta above zero, not {alpha} and {beta}.")
        if mode not in ("hard", "soft"):
            raise ValueError(f'DarkRank has the modes "hard" and "soft", not {mode!r}.')
        if candidates not in ("nearest", "all"):
            raise ValueError(f'DarkRank ranks the candidates "nearest" or "all", not {candidates!r}.')
        if queries not in ("all", "first_half", "spaced", "drawn"):
            raise ValueError(
                f'DarkRank\'s queries are "all", "first_half", "spaced" or "drawn", not {queries!r}.'
            )
        if list_length < 2 or query_count < 1:
            raise ValueError(
                f"DarkRank needs a list_length of 2 or more and a query_count of 1 or more, not {list_length} "
                f"and {query_count}."
            )
        if mode == "soft" and (candidates == "all" or list_length > LONGEST_SOFT_LIST):
            raise ValueError(
                f"DarkRank's soft mode takes every ordering of a list, so lists are short: candidates='nearest' and a "
                f"list_length of at most {LONGEST_SOFT_LIST}, not {candidates!r} and {list_length}. Or mode='hard'."
            )
        self.alpha, self.beta, self.mode, self.candidates = alpha, beta, mode, candidates
        self.list_length, self.queries, self.query_count = list_length, queries, query_count
        self.detach_query, self.normalize = detach_query, normalize

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """Compare (R, D) with (R, D'), or (B, C, H, W) with (B, C', H, W); see the class. Returns a scalar."""
        with full_precision(student):
            student, teacher = prepare(student, teacher, valid, channels=False)
            if len(student) < 3 or student.numel() == 0 or teacher.numel() == 0:
                return student.sum() * 0
            ours, theirs = _pooled(student, valid), _pooled(teacher, valid)
            if self.normalize:
                ours, theirs = directions(ours), directions(theirs)
            rows = self._queries(len(ours), ours.device)
            lists = self._lists(theirs, rows)
            scores = self._scores(ours, rows, lists)
            if self.mode == "hard":
                return -log_likelihood(scores).mean()
            return _divergence(self._scores(theirs, rows, lists), scores).mean()

    def _queries(self, count: int, device: torch.device) -> Tensor:
        """The rows that are queries, (Q,)."""
        some = min(self.query_count, count)
        if self.queries == "drawn":
            return torch.randperm(count)[:some].to(device)
        if self.queries == "spaced":
            return torch.arange(some, device=device) * count // some
        return torch.arange(count // 2 if self.queries == "first_half" else count, device=device)

    @torch.no_grad()
    def _lists(self, theirs: Tensor, rows: Tensor) -> Tensor:
        """Each query's candidates, nearest first, as rows (Q, L)."""
        distance = torch.cdist(theirs[rows], theirs, compute_mode="donot_use_mm_for_euclid_dist")
        distance[torch.arange(len(rows), device=rows.device), rows] = float("inf")
        length = len(theirs) - 1
        if self.candidates == "nearest":
            length = min(length, self.list_length)
        return distance.sort(dim=1, stable=True).indices[:, :length]

    def _scores(self, embedding: Tensor, rows: Tensor, lists: Tensor) -> Tensor:
        """Score (Q, L) of each candidate; many in parts, recomputed for the gradient."""
        size = lists.shape[1] * embedding.shape[1]
        return in_parts(partial(self._score, embedding), size, rows, lists)

    def _score(self, embedding: Tensor, rows: Tensor, lists: Tensor) -> Tensor:
        query = embedding[rows].unsqueeze(1)
        difference = embedding[lists] - (query.detach() if self.detach_query else query)
        distance = torch.linalg.vector_norm(difference, dim=2).clamp(min=1e-6)
        return -self.alpha * distance**self.beta

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(loss)`."""
        length = self.list_length if self.candidates == "nearest" else "all"
        return f"alpha={self.alpha}, beta={self.beta}, mode={self.mode!r}, list={length}, queries={self.queries!r}"


def _pooled(feature: Tensor, valid: Tensor | None) -> Tensor:
    """Rows as they are; of maps, which are zero outside `valid`, the mean over the cells of each image (B, C)."""
    if feature.dim() == 2:
        return feature
    if valid is None:
        return feature.mean(dim=(2, 3))
    return feature.sum(dim=(2, 3)) / valid.sum(dim=(2, 3)).clamp(min=1)


def _divergence(theirs: Tensor, ours: Tensor) -> Tensor:
    """KL (Q,) of the distributions over all orderings of each list, from scores (Q, L) of teacher and student."""
    orders = torch.tensor(list(permutations(range(ours.shape[1]))), device=ours.device)
    theirs, ours = log_likelihood(theirs[:, orders]), log_likelihood(ours[:, orders])
    return divergence(theirs, ours).sum(1)
