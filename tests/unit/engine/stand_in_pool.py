# SPDX-License-Identifier: AGPL-3.0-or-later
"""Stands in for a GPU's pool of graphs: a replay runs the function again on the memory that a graph would read, into the memory it would write."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from yolov12.engine.replays import Reads


class StandIn:
    """A graph on the CPU."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor, reads: Reads, of_pool: list[StandIn]) -> None:
        self.function, self.held, self.of_pool = function, torch.empty_like(x).copy_(x), of_pool
        self.answer = function(self.held).clone()
        self.reads = reads()
        self.replays = self.copies = 0

    def replay(self, x: Tensor) -> Tensor:
        self.replays += 1
        if x is not self.held:
            self.copies += 1
            self.held.copy_(x)
        # Its kernels write where the answers of graphs that were captured after it may lie.
        for other in self.of_pool:
            if other is not self:
                other.answer.fill_(torch.nan)
        return self.answer.copy_(self.function(self.held))


class StandInPool:
    """Counts what is captured, and fails as often as it is told to."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.fails = fails
        self.captured: list[StandIn] = []
        self.releases = 0

    def capture(self, function: Callable[[Tensor], Tensor], x: Tensor, reads: Reads) -> StandIn:
        if self.fails is not None:
            raise self.fails
        self.captured.append(StandIn(function, x, reads, self.captured))
        return self.captured[-1]

    def release(self) -> None:
        self.releases += 1

    @property
    def replays(self) -> int:
        """Of all graphs together."""
        return sum(one.replays for one in self.captured)


class StandInPools:
    """Makes pools, and counts for all of them."""

    def __init__(self) -> None:
        self.fails: Exception | None = None
        self.made: list[StandInPool] = []

    def pool_of(self, device: object) -> StandInPool:
        del device
        self.made.append(StandInPool(self.fails))
        return self.made[-1]

    @property
    def captured(self) -> list[StandIn]:
        return [one for pool in self.made for one in pool.captured]

    @property
    def replays(self) -> int:
        return sum(pool.replays for pool in self.made)
