"""Noise on the teacher's logits: Sau and Balasubramanian, "Deep Model Compression: Distilling Knowledge from Noisy
Teachers", 2016.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

SIGMA_RANGE = (0.01, 1.0)
"""Between which the paper draws a random sigma."""


class LogitNoise(nn.Module):
    """Multiply the logits of some samples by noise around one: z' = (1 + xi) z, xi ~ N(0, sigma^2).

    A sample is a row of (R, K), or a cell of a map (B, K, H, W); each is chosen with probability alpha,
    independently, and the others keep z. The shape stays; half precision becomes float32. Only in training mode:
    in eval mode logits pass unchanged.

        "sample"   each chosen sample has a xi of its own in R^K
        "batch"    one xi in R^K for all chosen samples of the batch: the paper's algorithm as it is written

    The paper says in one place that a sample's noisy target stays fixed through training, which its algorithm
    contradicts; we follow the algorithm. What it does: the expected value of `LogitRegression` rises by alpha *
    sigma^2 / 2 * mean ||z||^2, which does not depend on the student, so the expected gradient is that without
    noise. A constant added to a row's logits changes the noise, though no probability.

    The random numbers are not the global generator's: those of call number n depend on `seed`, the rank of the
    process, n and the kind of device. The buffer `draws` counts the calls and is in the state dict, so a resumed
    training goes on with the numbers it would have had.

    Source: the paper's text; no code of its authors is known. Its best values for CIFAR-10 were sigma 0.9 with
    alpha 0.5; it uses alpha 0.15 for MNIST and SVHN.

    Args:
        sigma: standard deviation of xi; 0 changes nothing.
        alpha: probability with which a sample is chosen.
        draw: "sample" or "batch".
        random_sigma: draw sigma uniformly between 0.01 and 1 for each batch, in place of `sigma`.
        seed: another one for each of several pairs makes their noise independent.
    """

    draws: Tensor

    def __init__(
        self,
        sigma: float = 0.9,
        alpha: float = 0.5,
        *,
        draw: Literal["sample", "batch"] = "sample",
        random_sigma: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not (sigma >= 0 and 0 <= alpha <= 1):
            raise ValueError(
                f"LogitNoise needs sigma >= 0 and a probability alpha between 0 and 1, not {sigma} and {alpha}."
            )
        if draw not in ("sample", "batch"):
            raise ValueError(f'LogitNoise draws for each "sample" or "batch", not for {draw!r}.')
        self.sigma, self.alpha, self.draw = sigma, alpha, draw
        self.random_sigma, self.seed = random_sigma, seed
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))
        self._known_draws: int | None = 0
        self.register_load_state_dict_post_hook(_look_again)

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Tensor:
        """(R, K) or (B, K, H, W) to the same shape; see the class."""
        if not self.training:
            return logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        generator = self._generator(logits.device)
        options: dict[str, Any] = {"dtype": logits.dtype, "device": logits.device, "generator": generator}
        low, high = SIGMA_RANGE
        sigma = low + (high - low) * torch.rand((), **options) if self.random_sigma else self.sigma
        rows, classes, *cells = logits.shape
        chosen = torch.rand(rows, 1, *cells, **options) < self.alpha
        xi_shape = (rows, classes, *cells) if self.draw == "sample" else (classes, *[1] * len(cells))
        return torch.where(chosen, (1 + sigma * torch.randn(xi_shape, **options)) * logits, logits)

    def _generator(self, device: torch.device) -> torch.Generator:
        """Return a generator for this call, and count it."""
        if self._known_draws is None:
            self._known_draws = int(self.draws)
        several = distributed.is_available() and distributed.is_initialized()
        numbers = (self.seed, distributed.get_rank() if several else 0, self._known_draws)
        self._known_draws += 1
        self.draws += 1  # beside it, so that a GPU is not asked at every step
        digest = hashlib.sha256(repr(numbers).encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big"))

    def extra_repr(self) -> str:
        """Show the hyper-parameters in `print(adapter)`."""
        sigma = "random" if self.random_sigma else self.sigma
        return f"sigma={sigma}, alpha={self.alpha}, draw={self.draw!r}, seed={self.seed}"


def _look_again(noise: LogitNoise, _keys: object) -> None:
    noise._known_draws = None
