# SPDX-License-Identifier: AGPL-3.0-or-later
"""How many buffers and calls a graph has. What replays them needs a GPU: tests/gpu/test_bench_kernels.py."""

from __future__ import annotations

from benchmarks.kernels import clock
from benchmarks.kernels.contest import OTHER, OURS, Contest
from tests.unit.benchmarks.kernels.stand_ins import ToldClock

CACHE = 50 * 2**20


def test_buffers_of_cold_calls_do_not_come_again_before_the_cache_was_filled_twice():
    assert clock.sizes(20 * 2**20, True, CACHE) == (5, 5)


def test_large_ones_take_turns_all_the_same_and_small_ones_are_not_without_end():
    assert clock.sizes(2**32, True, CACHE) == (2, 2)
    assert clock.sizes(8, True, CACHE) == (16, 16)


def test_warm_calls_take_few_buffers_in_turn():
    assert clock.sizes(20 * 2**20, False, CACHE) == (4, 20)


def test_a_contest_is_told_how_many_buffers_to_make():
    asked = []

    def ways(sets: int) -> dict:
        asked.append(sets)
        return {OTHER: [lambda: None] * sets, OURS: [lambda: None] * sets}

    by = ToldClock(lambda way: {OTHER: 2.0, OURS: 1.0}[way])
    result = clock.hold(Contest("map", 8 * by.cache_bytes, ways), by, is_cold=True)
    assert (asked, by.calls, result.us) == ([2], [2], {OTHER: 2.0, OURS: 1.0})
