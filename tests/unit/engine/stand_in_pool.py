# SPDX-License-Identifier: AGPL-3.0-or-later
"""Stands in for a GPU's pool of graphs: a replay runs the function again on the memory that a graph would read, into the memory it would write."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from yolov12.engine.replays import Reads


class StandIn:
    """A graph on the CPU."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor, reads: Reads) -> None:
        self.function, self.held = function, torch.empty_like(x).copy_(x)
        self.answer = function(self.held).clone()
        self.reads = reads()
        self.replays = 0

    def replay(self, x: Tensor) -> Tensor:
        self.replays += 1
        self.held.copy_(x)
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
        self.captured.append(StandIn(function, x, reads))
        return self.captured[-1]

    def release(self) -> None:
        self.releases += 1

    @property
    def replays(self) -> int:
        """Of all graphs together."""
        return sum(one.replays for one in self.captured)
