# SPDX-License-Identifier: AGPL-3.0-or-later
"""Times of the parts of a validation or a prediction without waiting for the GPU at each of them.

ultralytics' `Profile` (utils/ops.py:20) empties the GPU's queue before and after each part, six or eight times a batch, so the CPU can not
prepare the next kernels while the GPU works. Events in the stream measure the same from inside.
"""

from __future__ import annotations

from typing import Any

import torch
from ultralytics.utils.ops import Profile


class EventProfile:
    """Stands in for `Profile` as ultralytics' validator and predictors use it: `with profile: ...` many times, then `profile.t`, in seconds, or
    `profile.dt`, that of the last time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[tuple[Any, Any]] = []
        self._total_s = self._last_s = 0.0

    def __enter__(self) -> EventProfile:
        self._begin = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._spans.append((self._begin, self._now()))

    def _now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

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


def profile(device: torch.device) -> Any:
    """What times a part on this device: events on a GPU, ultralytics' own elsewhere."""
    return EventProfile(device) if device.type == "cuda" else Profile(device=device)
