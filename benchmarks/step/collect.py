# SPDX-License-Identifier: AGPL-3.0-or-later
"""Runs a training step under the profiler, under the counter of work, and under nothing but a clock."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, _ExperimentalConfig

from benchmarks import timing
from benchmarks.step import trace
from benchmarks.step.phases import Marking
from benchmarks.step.subject import Subject
from benchmarks.step.work import Counting, Work

MOST_WARM_STEPS = 60
"""Under the profiler comes what a run does most of its time: kernels are chosen, the memory plan is measured, the graph is judged."""


def warm(subject: Subject, least_steps: int) -> None:
    """Step until nothing is measured any more that a run measures once."""
    for number in range(MOST_WARM_STEPS):
        plans = subject.step.recomputation
        if number >= least_steps and (plans is None or not plans.is_measuring):
            break
        subject.one_step()
    _wait_for(subject.device)


def timed_ms(subject: Subject, steps: int) -> float:
    """Median milliseconds of a step with nobody looking."""
    return median(timing.times_ms(subject.one_step, subject.device.type, steps))


def counted(subject: Subject) -> Work:
    """The work of one step."""
    with _marked(subject) as marking, Counting(lambda: marking.now) as counting:
        subject.one_step(marking.mark)
    return counting.work


def profiled(subject: Subject, steps: int, file: Path) -> trace.Profile:
    """The profile of some steps.

    Args:
        subject: warm.
        steps: how many.
        file: where the trace is written, with the phases as a track of its own; .json.gz.
    """
    on_gpu = subject.device.type == "cuda"
    # All threads: backward runs in one of the autograd engine's, and our loader has its own.
    for_all = _ExperimentalConfig(profile_all_threads=True)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with torch.profiler.profile(activities=activities, experimental_config=for_all, acc_events=True) as profiler:
        subject.one_step()  # not marked, so not read: the first one pays for the profiler's own start
        _wait_for(subject.device)
        with _marked(subject) as marking:
            for _ in range(steps):
                subject.one_step(marking.mark)
            marking.mark(trace.DRAIN)
            _wait_for(subject.device)
            marking.mark(trace.END)
    profiler.export_chrome_trace(str(file))
    with gzip.open(file, "rt") as written:
        content = json.load(written)
    content["traceEvents"] += trace.phase_ranges(content["traceEvents"])
    with gzip.open(file, "wt", compresslevel=4) as whole:
        json.dump(content, whole)
    return trace.read(content["traceEvents"])


@contextmanager
def _marked(subject: Subject) -> Iterator[Marking]:
    """Within it the step tells its phases to what this gives, and not to who counts memory."""
    before, marking = subject.step.peaks, Marking()
    subject.step.peaks = marking
    try:
        yield marking
    finally:
        subject.step.peaks = before


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
