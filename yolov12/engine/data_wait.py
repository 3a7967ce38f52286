# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long the training loop waits for its data, by the host's clock alone: for what a run cost (cost.py), and whether another loader would pay
(pipeline.py).

Nothing asks the GPU: the host runs ahead of it, so where the GPU is what is slow, batches are ready before they are asked for, and where data
are, the host stands at the loader.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

SKIPPED_STEPS = 10
"""At a run's start, while the loader's workers start and kernels are chosen."""
LEAST_STEPS = 50
"""Before a share is told."""


class DataWait:
    """Watches a loop over batches, over several epochs."""

    def __init__(self) -> None:
        self.total_s = 0.0
        """The time that the loop stood at the loader, in all steps."""
        self.steps = 0
        """That count for the share."""
        self.waited_s = self.spent_s = 0.0
        """Of these steps: the time that the loop stood at the loader, and all time."""
        self._to_skip = SKIPPED_STEPS

    def watched(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches."""
        iterator = iter(batches)
        while True:
            asked_s = time.monotonic()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            waited_s = time.monotonic() - asked_s
            self.total_s += waited_s
            yield batch
            if self._to_skip:
                self._to_skip -= 1
                continue
            self.steps += 1
            self.waited_s += waited_s
            self.spent_s += time.monotonic() - asked_s

    def share(self) -> float | None:
        """The part of the steps' time that was spent waiting, 0 to 1; None before enough of them."""
        return self.waited_s / self.spent_s if self.steps >= LEAST_STEPS and self.spent_s else None
