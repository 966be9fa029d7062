"""Batches that hold several images of each of their identities, for losses on pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from detectron2.utils import comm

__all__ = ["IdentitySampler"]


class IdentitySampler:
    """The endless stream of this process's indices; every `batch_size` of them are a batch.

    A batch is ``batch_size - random_images`` images in groups of `per_identity`, one group of each identity, and then
    `random_images` more that are drawn from all others. Identities come in random order, pass by pass: in one pass
    each comes once, but for the few that no longer fill a batch (of all processes together no batch has an identity
    twice, unless among the random images). So identities are met equally often, however many images they have. The
    images of a group are drawn anew each time; an identity of fewer images than `per_identity` gives all of them, and
    some again: of one image, that image `per_identity` times, differently augmented. Single ones can be left out;
    they are then met among the random images only.

    The stream is a function of the seed: the batch with number n, counted over all processes, of `seed` and n alone.
    The processes take batches in turn.

    Every `per_identity` images follow one another, so that a batch of TuSimple/DarkRank (5e6a74f), whose first half are
    pairs and whose second half are any images, is ``batch_size=8, per_identity=2, random_images=4``; its queries are
    `DarkRank`'s ``"first_half"``.

    Args:
        labels: the identity of each image.
        batch_size: images per batch of one process.
        per_identity: images of each identity in a batch, at least 2.
        random_images: how many of a batch are any images.
        singles: leave the identities of one image out ("drop"), or repeat the image ("repeat").
        seed: of the stream.

    Raises:
        ValueError: numbers that do not fit together, or too few identities for a batch; says what to change.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        *,
        per_identity: int = 4,
        random_images: int = 0,
        singles: str = "repeat",
        seed: int = 0,
    ) -> None:
        if singles not in ("repeat", "drop"):
            raise ValueError(f"identities of one image: choose 'repeat' or 'drop', not {singles!r}")
        paired = batch_size - random_images
        if per_identity < 2 or random_images < 0 or paired <= 0 or paired % per_identity:
            raise ValueError(
                f"batches of {batch_size} images on each process, {random_images} of them at random, cannot hold "
                f"groups of {per_identity} of an identity: the rest must be a multiple of that, and that at least 2"
            )
        members: dict[int, list[int]] = {}
        for index, label in enumerate(labels):
            members.setdefault(int(label), []).append(index)
        if singles == "drop":
            members = {k: v for k, v in members.items() if len(v) > 1}
        self._members = [np.array(indices) for indices in members.values()]
        self._groups = paired // per_identity
        if len(self._members) < self._groups or (random_images and len(labels) < batch_size):
            raise ValueError(
                f"{len(labels)} images of {len(self._members)} identities cannot fill batches of {batch_size} images "
                f"with groups of {self._groups} identities: make batches smaller or take more images of each identity"
            )
        self._count, self._batch_size, self._seed = len(labels), batch_size, seed & 0xFFFFFFFF
        self._per_identity, self._random = per_identity, random_images

    def __iter__(self) -> Iterator[int]:
        """Yield this process's indices, from the first batch on."""
        number = comm.get_rank()
        while True:
            yield from self.batch(number)
            number += comm.get_world_size()

    def batch(self, number: int) -> list[int]:
        """Return the batch with this number, counted over all processes."""
        per_pass = len(self._members) // self._groups
        which, position = divmod(number, per_pass)
        order = np.random.default_rng((self._seed, 0, which)).permutation(len(self._members))
        chosen = order[position * self._groups : (position + 1) * self._groups]
        rng = np.random.default_rng((self._seed, 1, number))
        batch = [int(i) for identity in chosen for i in self._group(self._members[identity], rng)]
        if self._random:
            drawn = rng.choice(self._count, self._batch_size, replace=False).tolist()
            batch += [i for i in drawn if i not in batch][: self._random]
        return batch

    def _group(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`per_identity` of an identity's images, each before any is repeated."""
        rounds = -(-self._per_identity // len(images))
        return np.concatenate([rng.permutation(images) for _ in range(rounds)])[: self._per_identity]
