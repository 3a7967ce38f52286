# SPDX-License-Identifier: AGPL-3.0-or-later
"""Marks in the profiler's trace where a phase of a step begins.

The engine's step tells its phases to whoever counts memory (yolov12/engine/phases.py), from the thread in which they begin: backward's from the
autograd engine's. A range of the profiler can not be closed by another thread, so what is written is a moment, and a phase lasts until the next.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from benchmarks.step import trace
from yolov12.memory.peaks import BETWEEN, OfNothing, Peaks

_NAMES = {"forward": trace.FORWARD, "loss": trace.LOSS, "backward": trace.BACKWARD, BETWEEN: trace.REDUCE}
"""The step's words -> ours. What is left of a step after backward is the sum over the ranks."""


class Marking(Peaks):
    """Stands in for what the step tells its phases to; it counts no memory, which costs a step time of its own."""

    def __init__(self) -> None:
        super().__init__(OfNothing())
        self.now = ""
        """The phase that is open, for who counts work (work.py)."""

    def begin(self, phase: str) -> None:
        """As the step calls it."""
        super().begin(phase)
        self.mark(_NAMES.get(phase, phase))

    def begin_step(self) -> None:
        """Up to forward, the plan is looked at."""
        super().begin(BETWEEN)
        self.step.clear()

    def mark(self, phase: str) -> None:
        """A phase begins that the step does not know of."""
        self.now = phase
        with torch.profiler.record_function(trace.MARK + phase):
            pass


def beside(phase: str) -> AbstractContextManager[object]:
    """Around work in another thread than the step's."""
    return torch.profiler.record_function(trace.MARK + phase)
