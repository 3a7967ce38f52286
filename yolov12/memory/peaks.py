# SPDX-License-Identifier: AGPL-3.0-or-later
"""The allocator's peak in each phase of a step.

The allocator keeps one peak, for the whole process, so it is set back where a phase begins. This is the only place that does so: what was
reserved at most is noted before, and `highest_reserved` answers for the whole run. Nothing waits for the GPU: memory is given out on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

BETWEEN = "between steps"
"""The phase that is open outside of a step: the update, EMA, the next batch, unless somebody begins one with its name."""


class Allocator(Protocol):
    """Of one device; bytes."""

    def peak(self) -> tuple[int, int]:
        """(allocated, reserved) at most since the last reset."""

    def reset(self) -> None:
        """Peaks begin again at what is in use now."""


@dataclass(frozen=True)
class OfCuda:
    """torch's, on a GPU."""

    device: torch.device

    def peak(self) -> tuple[int, int]:
        found = torch.cuda.memory_stats_as_nested_dict(self.device)  # the flat form takes ten times as long
        return found["allocated_bytes"]["all"]["peak"], found["reserved_bytes"]["all"]["peak"]

    def reset(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)


class OfNothing:
    """On devices whose memory nobody counts."""

    def peak(self) -> tuple[int, int]:
        return 0, 0

    def reset(self) -> None:
        pass


@dataclass
class Peaks:
    """Largest bytes in use, phase by phase. One of these is shared by all who look at a run."""

    allocator: Allocator
    step: dict[str, int] = field(default_factory=dict)
    """Phase -> largest bytes allocated in it, of the last attempt at a step; of the largest part where the batch is cut."""
    run: dict[str, int] = field(default_factory=dict)
    """The same since the run began."""
    phase: str = BETWEEN
    _reserved: int = 0

    @classmethod
    def of(cls, device: torch.device) -> Peaks:
        """Of this process on a device."""
        return cls(OfCuda(device) if device.type == "cuda" else OfNothing())

    def begin(self, phase: str) -> None:
        """The phase that was open has ended, and `phase` begins; again within a step adds to it."""
        self._close()
        self.phase = phase

    def begin_step(self) -> None:
        """An attempt at a step begins: `step` holds nothing yet."""
        self.begin(BETWEEN)
        self.step.clear()

    def closed(self) -> dict[str, int]:
        """`step`, the phase that was open among them; `BETWEEN` is open now."""
        self.begin(BETWEEN)
        return self.step

    @property
    def highest_reserved(self) -> int:
        """Bytes that the allocator held at most, in any phase."""
        return max(self._reserved, self.allocator.peak()[1])

    def _close(self) -> None:
        allocated, reserved = self.allocator.peak()
        for found in (self.step, self.run):
            found[self.phase] = max(found.get(self.phase, 0), allocated)
        self._reserved = max(self._reserved, reserved)
        self.allocator.reset()
