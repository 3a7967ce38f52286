# SPDX-License-Identifier: AGPL-3.0-or-later
"""From which pictures the partners of a mosaic are drawn: the last ones of this epoch, as with ultralytics' buffer.

It starts empty with each epoch, so that what a batch may draw from follows from the epoch's order alone, and a run that is resumed in the middle
of one draws as the uninterrupted run did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np


class Recent:
    """The indices of the last `length` pictures, each once, the latest last."""

    def __init__(self, length: int) -> None:
        self.length = length
        self._order: dict[int, None] = {}
        self._indices = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        return iter(self._order)

    def clear(self) -> None:
        """Forget all, for a new epoch."""
        self._order.clear()
        self._indices = np.empty(0, np.int64)

    def add(self, indices: Iterable[int]) -> None:
        """Take in the pictures of a batch, in order."""
        for index in indices:
            self._order.pop(index, None)
            self._order[index] = None
        for index in list(self._order)[: max(len(self._order) - self.length, 0)]:
            del self._order[index]
        self._indices = np.fromiter(self._order, np.int64, len(self._order))

    def pick(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """`count` of the indices, (count,) int64, drawn independently; a picture may be its own partner, as in ultralytics."""
        return self._indices[rng.integers(len(self._indices), size=count)]
