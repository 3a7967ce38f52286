# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator

import pytest

from yolov12.engine import data_wait
from yolov12.engine.data_wait import DataWait


class Clock:
    """A loop on a clock of its own: batches that take `wait_s` to come and `work_s` to train."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(data_wait.time, "monotonic", lambda: self.now_s)

    def batches(self, count: int, wait_s: float) -> Iterator[int]:
        for number in range(count):
            self.now_s += wait_s
            yield number

    def run(self, wait: DataWait, count: int, wait_s: float, work_s: float) -> list[int]:
        seen = []
        for batch in wait.watched(self.batches(count, wait_s)):
            self.now_s += work_s
            seen.append(batch)
        return seen


def test_the_share_is_that_of_the_loader_in_the_steps_time(monkeypatch: pytest.MonkeyPatch):
    wait, clock = DataWait(), Clock(monkeypatch)
    assert clock.run(wait, data_wait.SKIPPED_STEPS + data_wait.LEAST_STEPS, 1, 3) == list(range(60))
    assert wait.share() == pytest.approx(0.25)


def test_the_start_of_a_run_does_not_count(monkeypatch: pytest.MonkeyPatch):
    wait, clock = DataWait(), Clock(monkeypatch)
    clock.run(wait, data_wait.SKIPPED_STEPS, 100, 1)
    clock.run(wait, data_wait.LEAST_STEPS, 0, 1)
    assert wait.share() == 0
    assert wait.total_s == data_wait.SKIPPED_STEPS * 100  # what a run cost has all of it


def test_too_few_steps_say_nothing_and_short_epochs_add_up(monkeypatch: pytest.MonkeyPatch):
    wait, clock = DataWait(), Clock(monkeypatch)
    for _ in range(5):
        clock.run(wait, 10, 1, 1)
        assert wait.share() is None
        clock.now_s += 1000  # validation
    clock.run(wait, 10, 1, 1)
    assert wait.share() == pytest.approx(0.5)
