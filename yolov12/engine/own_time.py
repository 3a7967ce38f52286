# SPDX-License-Identifier: AGPL-3.0-or-later
"""How long this rank takes for a step by itself, so that one that the others wait for can be told from those that wait.

    host  the clock's time of a step, mean over those since the last reading, without votes and without what waits for the GPU
    GPU   forward and backward of one step, by CUDA events; the sums over ranks, in which GPUs wait for each other, come after

The larger counts: late data and slow Python show on the host, a GPU that is held back by heat or shared only in the second. Reading a loss waits for
the GPU, and so for the slowest one of all; rank 0 does that for its progress bar, and would look slow for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _cuda_event() -> Any:
    return torch.cuda.Event(enable_timing=True)


class OwnTime:
    """Of one process of several.

    Args:
        device: that it trains on; the CPU where the host's time is enough.
        waited_s: how long it has waited for peers since the run began.
        event: makes what notes a moment of the GPU's queue.
    """

    def __init__(
        self, device: torch.device, waited_s: Callable[[], float], event: Callable[[], Any] = _cuda_event
    ) -> None:
        self._waited_s = waited_s
        # Two pairs, since a step is read when the next one has begun.
        self._pairs = [(event(), event()) for _ in range(2)] if device.type == "cuda" else []
        self._steps, self._read_at, self._excused_s = 0, 0, 0.0
        self._since = time.monotonic(), waited_s()

    def begin_step(self) -> None:
        """A batch is there."""
        self._steps += 1
        if self._pairs:
            self._pairs[self._steps % 2][0].record()

    def after_backward(self) -> None:
        """All of this rank's own work of a step is in the GPU's queue."""
        if self._pairs:
            self._pairs[self._steps % 2][1].record()

    @contextmanager
    def waiting_for_the_gpu(self) -> Iterator[None]:
        """What is done inside does not count."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self._excused_s += time.monotonic() - began_s

    def read_ms(self) -> float:
        """A step's time since the last reading. The GPU must have done the step before the one that has begun last."""
        steps, self._read_at = self._steps - self._read_at, self._steps
        now = time.monotonic(), self._waited_s()
        host_s = now[0] - self._since[0] - (now[1] - self._since[1]) - self._excused_s
        self._since, self._excused_s = now, 0.0
        host_ms = host_s * 1000 / steps
        if not self._pairs:
            return host_ms
        began, computed = self._pairs[(self._steps - 1) % 2]
        return max(host_ms, float(began.elapsed_time(computed)))
