# SPDX-License-Identifier: AGPL-3.0-or-later
"""A rank's own time for a step: the larger of the host's and the GPU's, without what either waits for others. No GPU: events are made up."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from yolov12.engine import own_time
from yolov12.engine.own_time import OwnTime

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Clock:
    """Stands in for the module `time`, and for a GPU whose queue is never behind."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.waited_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def event(self) -> Any:
        clock = self

        class Event:
            def record(self) -> None:
                self.at_s = clock.now_s

            def elapsed_time(self, later: Any) -> float:
                return (later.at_s - self.at_s) * 1000

        return Event()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(own_time, "time", made)
    return made


def steps(clock: Clock, ours: OwnTime, data_s: float, compute_s: float, vote_s: float, read_s: float = 0.0) -> None:
    """Ten, and the begin of one more."""
    for _ in range(10):
        clock.now_s += data_s
        ours.begin_step()
        clock.now_s += compute_s
        ours.after_backward()
        clock.now_s += vote_s
        clock.waited_s += vote_s
        with ours.waiting_for_the_gpu():
            clock.now_s += read_s
    ours.begin_step()


def test_waiting_for_peers_and_reading_what_they_hold_up_do_not_count(clock: Clock) -> None:
    ours = OwnTime(CPU, lambda: clock.waited_s)
    steps(clock, ours, data_s=0.03, compute_s=0.01, vote_s=0.5, read_s=0.7)
    assert ours.read_ms() == pytest.approx(400 / 11)  # of eleven steps that have begun


def test_a_slow_gpu_is_seen_behind_a_fast_host(clock: Clock) -> None:
    ours = OwnTime(GPU, lambda: clock.waited_s, clock.event)
    steps(clock, ours, data_s=0.001, compute_s=0.002, vote_s=0)
    (began, computed), _ = ours._pairs
    began.at_s, computed.at_s = 1.0, 1.25  # of the tenth step; the eleventh has only begun
    assert ours.read_ms() == pytest.approx(250)


def test_each_reading_begins_anew(clock: Clock) -> None:
    ours = OwnTime(CPU, lambda: clock.waited_s)
    steps(clock, ours, data_s=1.0, compute_s=1.0, vote_s=0)
    ours.read_ms()
    steps(clock, ours, data_s=0.1, compute_s=0.0, vote_s=0)
    assert ours.read_ms() == pytest.approx(1000 / 11)
