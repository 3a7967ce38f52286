# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which samples a rank trains on, and with which random numbers: a pure function of the seed, the epoch and the place in the epoch.

An epoch is one permutation of the samples, cut into batches of all ranks, each cut into the ranks' shares. So no sample comes twice in an
epoch, batches do not depend on how many ranks there are, and a run can go on in the middle of an epoch, on another number of ranks.

ultralytics' own samplers have none of this: RandomSampler draws from a generator whose state nobody saves, and DistributedSampler fills up
with repeated samples until the ranks have equally many.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

GHOST = "ghost"
"""A key of a batch whose one image is there only so that its rank takes part; it must not count."""


class Share(list[int]):
    """The indices of one rank's share of one batch. As a list of its own kind it reaches a loader's workers with what it carries."""

    def __init__(self, indices: Sequence[int], seeds: Sequence[tuple[int, int, int]], is_ghost: bool = False) -> None:
        super().__init__(indices)
        self.seeds = seeds
        """Of each sample: (seed, epoch, place in the epoch)."""
        self.is_ghost = is_ghost
        """Whether this rank has no image in this batch, and trains on a borrowed one that counts nothing."""


@dataclass(frozen=True)
class Plan:
    """How an epoch is cut up. Sizes are in samples.

    Args:
        samples: in the data set.
        batch: of all ranks together; at most all samples.
        rank, ranks: whose shares.
        seed: of the run.
        shuffle: False keeps the data set's order, in every epoch.
        drop_last: leave out a last batch that is not full, if it is not the only one.
    """

    samples: int
    batch: int
    seed: int = 0
    rank: int = 0
    ranks: int = 1
    shuffle: bool = True
    drop_last: bool = False

    def permutation(self, epoch: int) -> np.ndarray:
        """The order of all samples in an epoch, shape (samples,)."""
        if not self.shuffle:
            return np.arange(self.samples)
        return np.random.default_rng([self.seed % 2**32, epoch]).permutation(self.samples)

    @property
    def used(self) -> int:
        """Samples in an epoch."""
        return self.samples - self.samples % self._batch if self.drop_last else self.samples

    def batches(self, seen: int = 0) -> int:
        """How many are left of an epoch after `seen` samples of all ranks."""
        return -(-max(self.used - seen, 0) // self._batch)

    def seen_after(self, seen: int, batches: int) -> int:
        """How many samples of an epoch all ranks have seen together, `batches` after `seen`."""
        return min(seen + batches * self._batch, self.used)

    def of_rank(self) -> int:
        """This rank's samples in a whole epoch."""
        return sum(end - first for first, end in (self._share(start) for start in range(0, self.used, self._batch)))

    def shares(self, epoch: int, seen: int = 0) -> Iterator[Share]:
        """This rank's share of each batch that is left of an epoch after `seen` samples of all ranks."""
        order = self.permutation(epoch)
        for start in range(seen, self.used, self._batch):
            first, end = self._share(start)
            is_ghost = first == end
            if is_ghost:
                first, end = start, start + 1
            seeds = [(self.seed, epoch, place) for place in range(first, end)]
            yield Share(order[first:end].tolist(), seeds, is_ghost)

    @property
    def _batch(self) -> int:
        return max(min(self.batch, self.samples), 1)

    def _share(self, start: int) -> tuple[int, int]:
        """The places of this rank's share of the batch that begins at `start`. Earlier ranks have the images that do not divide."""
        images = min(self._batch, self.used - start)
        each, more = divmod(images, self.ranks)
        first = start + self.rank * each + min(self.rank, more)
        return first, first + each + (self.rank < more)


class Order(Sampler[int]):
    """A `Plan` as a sampler of torch: iterating gives this rank's indices in the epoch that was set, from where it was set to begin.

    Who cuts them into batches of one size gets the plan's shares only where the batch divides by the ranks and no rank is without a last
    image; `plan.shares` gives them always.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.epoch, self.seen = 0, 0

    def set_epoch(self, epoch: int, seen: int = 0) -> None:
        """Begin there: `seen` samples of all ranks into the epoch."""
        self.epoch, self.seen = epoch, seen

    def __iter__(self) -> Iterator[int]:
        for share in self.plan.shares(self.epoch, self.seen):
            yield from () if share.is_ghost else share

    def __len__(self) -> int:
        return self.plan.of_rank()


class Endless:
    """The shares from an epoch on and then those of the epochs after it, for a loader that prefetches beyond the end of an epoch."""

    def __init__(self, order: Order) -> None:
        self.order = order

    def __iter__(self) -> Iterator[Share]:
        epoch, seen = self.order.epoch, self.order.seen
        while True:
            yield from self.order.plan.shares(epoch, seen)
            epoch, seen = epoch + 1, 0

    def __len__(self) -> int:
        return self.order.plan.batches()


class Seeded:
    """Stands in for a data set's `__getitems__`: each sample is made with random numbers of its own (torch/utils/data/_utils/fetch.py).

    Python's, numpy's and torch's CPU generators are as before afterwards, since without workers they are those of the training process.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        if not isinstance(indices, Share):
            return [self.dataset[index] for index in indices]
        before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
        try:
            samples = [self._one(index, seed) for index, seed in zip(indices, indices.seeds, strict=True)]
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.default_generator.set_state(before[2])
        return [{**sample, GHOST: True} for sample in samples] if indices.is_ghost else samples

    def _one(self, index: int, seed: tuple[int, int, int]) -> Any:
        words = np.random.SeedSequence([part % 2**32 for part in seed]).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(words[1])
        # Not torch.manual_seed, which would also seed the GPUs of the training process.
        torch.default_generator.manual_seed(int(words[2]))
        return self.dataset[index]
