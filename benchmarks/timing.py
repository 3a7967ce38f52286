# SPDX-License-Identifier: AGPL-3.0-or-later
"""Timing on the device: CUDA events around each call where there is a GPU, the clock elsewhere. Imports torch when called."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any


def warm(call: Callable[[], Any], device: str, least_calls: int = 3, least_s: float = 0.05) -> float:
    """Call until libraries have loaded, chosen their kernels and filled their caches; seconds per call at the end of it."""
    import torch

    calls, started_s, lap_s = 0, time.perf_counter(), 0.0
    while calls < least_calls or time.perf_counter() - started_s < least_s:
        lap_s = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        calls += 1
    return time.perf_counter() - lap_s


def times_ms(call: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` calls, queued without waiting in between, as a training loop does."""
    import torch

    if device != "cuda":
        return [_clocked_ms(call) for _ in range(repeats)]
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in pairwise(marks)]


def latencies_ms(call: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Milliseconds on the host's clock from each of `repeats` calls to its end on the device, which has nothing else to do."""
    import torch

    def answered() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return [_clocked_ms(answered) for _ in range(repeats)]


def median_ms(call: Callable[[], Any], device: str, budget_ms: float = 100.0, most: int = 200) -> float:
    """Median milliseconds per call, after a warm-up; as many calls as fit the budget, at least 10."""
    per_call_s = warm(call, device)
    repeats = min(most, max(10, int(budget_ms / 1000 / max(per_call_s, 1e-6))))
    return median(times_ms(call, device, repeats))


def _clocked_ms(call: Callable[[], Any]) -> float:
    started_s = time.perf_counter()
    call()
    return (time.perf_counter() - started_s) * 1000
