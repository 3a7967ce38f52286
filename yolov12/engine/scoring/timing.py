# SPDX-License-Identifier: AGPL-3.0-or-later
"""Times of the parts of a validation or a prediction without waiting for the GPU at each of them.

ultralytics' `Profile` (utils/ops.py:20) empties the GPU's queue before and after each part, six or eight times a batch, so the CPU can not
prepare the next kernels while the GPU works. Events in the stream measure the same from inside.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from ultralytics.utils.ops import Profile

_here = threading.local()
"""`profile`: the one that times a part in this thread, if there is one."""


class EventProfile:
    """Stands in for `Profile` as ultralytics' validator and predictors use it: `with profile: ...` many times, then `profile.t`, in seconds, or
    `profile.dt`, that of the last time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[Any, Any]] = []
        self._total_s = self._last_s = 0.0

    def __enter__(self) -> EventProfile:
        self._begin, self._end = mark(self._device), None
        _here.profile = self
        return self

    def __exit__(self, *_: object) -> None:
        _here.profile = None
        self._spans.append((self._begin, mark(self._device) if self._end is None else self._end))

    def counts(self, begin: Any, end: Any) -> None:
        """What is being timed was done between these marks."""
        self._begin, self._end = begin, end

    @property
    def t(self) -> float:
        """All spans so far together. Waits for the end of the last one."""
        self._read()
        return self._total_s

    @property
    def dt(self) -> float:
        """The last span. Waits for its end."""
        self._read()
        return self._last_s

    def _read(self) -> None:
        """Add up the spans that were not yet: a stream has no last one, so none is kept."""
        if not self._spans:
            return
        self._spans[-1][1].synchronize()
        times_s = [begin.elapsed_time(end) / 1000 for begin, end in self._spans]
        self._spans.clear()
        self._total_s, self._last_s = self._total_s + sum(times_s), times_s[-1]


def mark(device: torch.device) -> Any:
    """This moment in the queue of a GPU, an event that can be waited for; None elsewhere."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def counts(begin: Any, end: Any) -> None:
    """The part that is being timed in this thread was done before, between these marks; nothing where no GPU's time is taken."""
    timed = getattr(_here, "profile", None)
    if timed is not None and end is not None:
        timed.counts(begin, end)


def profile(device: torch.device) -> Any:
    """What times a part on this device: events on a GPU, ultralytics' own elsewhere."""
    return EventProfile(device) if device.type == "cuda" else Profile(device=device)
