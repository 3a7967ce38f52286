# SPDX-License-Identifier: AGPL-3.0-or-later
"""A step's times from a trace: traces made by hand, in the form that torch.profiler writes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.step import kinds, trace

MAIN, BACKWARDS, LOADERS, DECODERS, OTHER_BACKWARDS = range(5)
"""Threads."""


def mark(ts: float, name: str, thread: int = MAIN, dur: float = 0.1) -> dict:
    return {"ph": "X", "cat": "user_annotation", "name": f"step: {name}", "ts": ts, "dur": dur, "tid": thread}


def call(ts: float, name: str, correlation: int | None = None, thread: int = MAIN) -> dict:
    args = {} if correlation is None else {"correlation": correlation}
    return {"ph": "X", "cat": "cuda_runtime", "name": name, "ts": ts, "dur": 1, "tid": thread, "args": args}


def kernel(ts: float, dur: float, name: str, correlation: int, cat: str = "kernel") -> dict:
    args = {"correlation": correlation}
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 7, "args": args}


ONE_STEP = [
    mark(0, trace.DATA),
    mark(1000, trace.FORWARD),
    call(1100, "cudaLaunchKernel", 1),
    mark(2000, trace.BACKWARD, BACKWARDS),
    call(2500, "cudaLaunchKernelExC", 2, BACKWARDS),
    call(2600, "cudaMemsetAsync", 3, BACKWARDS),
    mark(3000, trace.UPDATE),
    call(3500, "cudaStreamSynchronize"),
    mark(4000, trace.DRAIN),
    call(4001, "cudaDeviceSynchronize"),
    mark(10_000, trace.END),
    kernel(2900, 2000, "sm90_xmma_fprop", 1),
    kernel(5000, 3000, "sm90_xmma_dgrad", 2),
    kernel(7000, 2000, "Memset (Device)", 3, "gpu_memset"),
    kernel(9999, 5000, "of somebody else", 99),
    {"ph": "M", "name": "process_name"},
]


def test_host_time_goes_from_mark_to_mark_and_device_time_to_where_the_launch_was():
    found = trace.read(ONE_STEP)
    assert found.steps == 1
    assert found.phases == {
        trace.DATA: trace.Spent(1.0, 0.0),
        trace.FORWARD: trace.Spent(1.0, 2.0),
        trace.BACKWARD: trace.Spent(1.0, 5.0),
        trace.UPDATE: trace.Spent(1.0, 0.0),
    }


def test_the_device_is_busy_once_where_two_streams_run_and_idle_in_the_gaps():
    found = trace.read(ONE_STEP)
    assert (found.wall_ms, found.busy_ms, found.idle_ms) == (10.0, 6.0, 4.0)


def test_launches_copies_and_waits_are_counted_up_to_the_end_of_the_last_step():
    found = trace.read(ONE_STEP)
    assert (found.launches, found.transfers) == (2, 1)
    assert found.waits == {"cudaStreamSynchronize": 1}


def test_kinds_have_their_time_and_their_calls():
    assert trace.read(ONE_STEP).kinds == {kinds.CONVOLUTION: (5.0, 2), kinds.FILL: (2.0, 1)}


def test_several_steps_give_their_mean():
    first = [event for event in ONE_STEP if event["name"] not in ("step: drain", "step: end", "cudaDeviceSynchronize")]
    second = [
        {
            **event,
            "ts": event.get("ts", 0) + 10_000,
            "args": {key: value + 1000 for key, value in event.get("args", {}).items()},
        }
        for event in ONE_STEP
    ]
    found, alone = trace.read(first + second), trace.read(ONE_STEP)
    assert (found.steps, found.wall_ms, found.busy_ms) == (2, alone.wall_ms, alone.busy_ms)
    assert found.phases[trace.BACKWARD] == alone.phases[trace.BACKWARD]
    assert (found.launches, found.waits) == (alone.launches, alone.waits)


def test_what_the_loaders_threads_launch_is_augmentation_and_its_uploads_are_uploads():
    events = [
        *ONE_STEP,
        mark(500, trace.AUGMENT, LOADERS, dur=2000),
        call(1200, "cudaStreamSynchronize", thread=DECODERS),
        {**call(1, "autograd::engine::evaluate_function: MulBackward0", thread=OTHER_BACKWARDS), "cat": "cpu_op"},
        call(2700, "cudaLaunchKernel", 12, OTHER_BACKWARDS),
        kernel(8000, 50, "gemm", 12),
        call(1500, "cudaLaunchKernel", 10, LOADERS),
        call(1600, "cudaMemcpyAsync", 11, LOADERS),
        kernel(1500, 100, "warp", 10),
        kernel(1600, 300, "Memcpy HtoD (Pinned -> Device)", 11, "gpu_memcpy"),
    ]
    found = trace.read(events)
    assert found.phases[trace.AUGMENT] == trace.Spent(2.0, 0.1)
    assert found.phases[trace.UPLOAD] == trace.Spent(0.0, 0.3)
    alone = trace.read(ONE_STEP)
    assert found.phases[trace.FORWARD] == alone.phases[trace.FORWARD]
    assert found.phases[trace.BACKWARD].device_ms == pytest.approx(alone.phases[trace.BACKWARD].device_ms + 0.05)
    assert (found.launches, found.transfers, found.waits) == (alone.launches + 1, alone.transfers, alone.waits)


def test_kernels_of_a_graph_belong_to_where_the_graph_was_launched():
    events = [
        mark(0, trace.DATA),
        mark(10, trace.BEFORE),
        call(20, "cudaGraphLaunch", 1),
        mark(30, trace.DRAIN),
        mark(1000, trace.END),
        kernel(100, 200, "gemm", 1),
        kernel(300, 100, "gemm", 1),
    ]
    found = trace.read(events)
    assert (found.launches, found.kinds[kinds.CONVOLUTION]) == (1, (0.3, 2))
    assert found.phases[trace.BEFORE].device_ms == pytest.approx(0.3)


@pytest.mark.parametrize("events", [[], ONE_STEP[:5]])
def test_a_trace_without_a_whole_step_is_refused(events):
    with pytest.raises(ValueError, match="no whole step"):
        trace.read(events)


def test_phases_become_bars_that_lie_end_to_end():
    bars = trace.phase_ranges(ONE_STEP)
    assert [(bar["name"], bar["ts"], bar["dur"]) for bar in bars[:2]] == [
        (trace.DATA, 0, 1000),
        (trace.FORWARD, 1000, 1000),
    ]
    assert all(before["ts"] + before["dur"] == after["ts"] for before, after in pairwise(bars))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12))
def test_what_intervals_cover_is_what_counting_its_points_gives(drawn):
    intervals = [(begin, begin + length) for begin, length in drawn]
    points = {point for begin, end in intervals for point in range(begin, end)}
    assert trace.covered(intervals) == len(points)
