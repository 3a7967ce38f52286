# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a run may be told to take for its device's memory: for the demo and for tests, where the real one is not there, or not tight."""

from __future__ import annotations

from typing import Protocol

import torch

from yolov12.memory.budget import Memory


class Card(Protocol):
    """A device's memory as a run sees it."""

    def read(self, device: torch.device) -> Memory:
        """What is free now, as `budget.read` says it of the real device."""

    def use(self, size: int) -> None:
        """A micro-batch begins, whose plan expects to need `size` bytes in all."""

    def peak(self) -> tuple[int, int]:
        """As `peaks.Allocator`: (allocated, reserved) at most since the last reset."""

    def reset(self) -> None:
        """Peaks begin again."""


class SimulatedCard:
    """A card that needs no GPU: a step needs there what its plan expects, and what is more than the card has is out of memory.

    Args:
        total: bytes of the card.
        neighbour_at: in which use the neighbour comes, which takes half of the card and keeps it. It comes after the run has looked at the free
            memory, so that this step runs out of it. None: nobody comes.
    """

    def __init__(self, total: int, neighbour_at: int | None = None) -> None:
        self.total, self.neighbour_at = total, neighbour_at
        self.taken = 0
        """Bytes of the neighbour."""
        self.uses = 0
        self.needed = 0
        """The most that a step needed."""
        self._peak = 0

    def read(self, device: torch.device) -> Memory:
        del device
        return Memory(device_free=self.total - self.taken, reserved=0, allocated=0, cap=self.total)

    def use(self, size: int) -> None:
        """A step begins.

        Raises:
            torch.OutOfMemoryError: it needs more than the neighbour left.
        """
        if self.uses == self.neighbour_at:
            self.taken = self.total // 2
        self.uses += 1
        free = self.total - self.taken
        if size > free:
            raise torch.OutOfMemoryError(
                f"out of memory on the simulated card: the step needs {size / 2**30:.3f} GiB, {free / 2**30:.3f} are free"
            )
        self.needed, self._peak = max(self.needed, size), max(self._peak, size)

    def peak(self) -> tuple[int, int]:
        return self._peak, self._peak

    def reset(self) -> None:
        self._peak = 0

    def close(self) -> None:
        """Nothing is held."""
