# SPDX-License-Identifier: AGPL-3.0-or-later
"""Times ways to do the same on a GPU: a CUDA graph of several calls for each, replayed in turns, medians. docs/benchmarks.md says why so.

Imports torch when called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Protocol

from benchmarks.kernels.contest import Call, Contest, Result

WARM_CALLS = 20
"""Of a graph whose buffers stay in the cache."""
WARM_SETS = 4
"""Buffers that these calls take in turn, so that none reads what the one before it wrote."""
LEAST_COLD_CALLS, MOST_COLD_CALLS = 2, 16
"""Of a graph whose buffers are each used once."""
CACHES_BETWEEN = 2
"""What is moved until a buffer comes again, in sizes of the second-level cache."""


class Clock(Protocol):
    """Measures on one device."""

    cache_bytes: int
    """Of the second-level cache."""

    def race(self, ways: Mapping[str, Sequence[Call]], calls: int) -> tuple[dict[str, float], dict[str, str]]:
        """(microseconds of a call of each way, reasons of those that could not run).

        Args:
            ways: of each, its call on every set of buffers, which are taken in turn.
            calls: in a graph.
        """


def sizes(moved_bytes: int, is_cold: bool, cache_bytes: int) -> tuple[int, int]:
    """(sets of buffers, calls of a graph). Cold: so many that the cache holds nothing of a buffer when it comes again."""
    if not is_cold:
        return WARM_SETS, WARM_CALLS
    wanted = -(-CACHES_BETWEEN * cache_bytes // max(moved_bytes, 1))
    sets = min(MOST_COLD_CALLS, max(LEAST_COLD_CALLS, wanted))
    return sets, sets


def hold(contest: Contest, clock: Clock, is_cold: bool) -> Result:
    """Let the ways of a contest race.

    Args:
        contest: of one shape.
        clock: of the device that its calls run on.
        is_cold: whether a call finds nothing in the cache, as in training and at large batches; else all, as at batch 1, where
            a network's weights and maps fit into the cache of a large GPU.
    """
    sets, calls = sizes(contest.moved_bytes, is_cold, clock.cache_bytes)
    us, failed = clock.race(contest.ways(sets), calls)
    return Result(contest, us, failed)


class GpuClock:
    """By events around replays of graphs."""

    def __init__(self, repeats: int) -> None:
        import torch

        self.repeats = repeats
        self.cache_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size

    def race(self, ways: Mapping[str, Sequence[Call]], calls: int) -> tuple[dict[str, float], dict[str, str]]:
        """As `Clock.race`. What one way finds wanting does not keep the others from running."""
        import torch

        from yolov12.engine.capture import first_cause

        graphs: dict[str, Any] = {}
        failed: dict[str, str] = {}
        pool = torch.cuda.graph_pool_handle()  # for all: only one replays at a time, and nobody reads what it made
        for name, on_sets in ways.items():
            try:
                graphs[name] = _captured(on_sets, calls, pool)
            except RuntimeError as error:
                cause = first_cause(error)
                failed[name] = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:160]
        us = {name: 1000 * median(spent_ms) / calls for name, spent_ms in self._replayed(graphs).items()}
        graphs.clear()
        torch.cuda.empty_cache()
        return us, failed

    def _replayed(self, graphs: Mapping[str, Any]) -> dict[str, list[float]]:
        """Milliseconds of each replay, in turns; the first turn is not counted."""
        import torch

        marks: dict[str, list[tuple[Any, Any]]] = {name: [] for name in graphs}
        for _ in range(self.repeats + 1):
            for name, graph in graphs.items():
                before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                before.record()
                graph.replay()
                after.record()
                marks[name].append((before, after))
        torch.cuda.synchronize()
        return {name: [before.elapsed_time(after) for before, after in pairs[1:]] for name, pairs in marks.items()}


def _captured(on_sets: Sequence[Call], calls: int, pool: Any) -> Any:
    """A graph of `calls` calls, after one of each set in which libraries choose their kernels."""
    import torch

    from yolov12.engine.capture import capturing

    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in on_sets[:2]:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    with capturing(graph, pool, stream):
        for number in range(calls):
            on_sets[number % len(on_sets)]()
    return graph
