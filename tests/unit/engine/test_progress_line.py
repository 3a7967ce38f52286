# SPDX-License-Identifier: AGPL-3.0-or-later
"""The progress line shows losses when they are there, and the host runs ahead of the GPU by a bounded number of steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from yolov12.engine import progress_line
from yolov12.engine.progress_line import InFlight, OnTheWay, ProgressLine, Words


class Gpu:
    """A queue whose moments are noted by events; what was waited for is noted, too."""

    def __init__(self) -> None:
        self.done, self.noted, self.waited, self.excused = 0, 0, [], 0

    def event(self) -> SimpleNamespace:
        def record() -> None:
            self.noted += 1
            mine.number = self.noted

        mine = SimpleNamespace(record=record, number=0)
        mine.query = lambda: self.done >= mine.number
        mine.synchronize = lambda: self.waited.append(mine.number)
        return mine

    @contextmanager
    def waiting(self) -> Iterator[None]:
        yield
        self.excused += 1


class Bar:
    """Keeps what it is told to show."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def set_description(self, words: str) -> None:
        self.shown.append(words)


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


def test_the_host_is_two_steps_ahead_at_most(gpu):
    in_flight = InFlight(torch.device("cuda"), gpu.waiting, gpu.event)
    for _ in range(5):
        in_flight.after_step()
    assert gpu.waited == [1, 2, 3]  # after each step from the third on, for the one two before it
    assert gpu.excused == 3


def test_on_a_cpu_there_is_nobody_to_run_ahead_of(gpu):
    in_flight = InFlight(torch.device("cpu"), gpu.waiting, gpu.event)
    in_flight.after_step()
    assert gpu.noted == 0


def words() -> Words:
    return Words("1/3", "0G", 7, 64)


def line(gpu: Gpu, now: list[float]) -> tuple[ProgressLine, Bar]:
    return ProgressLine(gpu.waiting, lambda: now[0]), Bar()


def losses(*numbers: float) -> list[torch.Tensor]:
    return [torch.tensor(number) for number in numbers]


def test_the_first_batch_and_then_one_each_interval_are_shown(gpu):
    now = [100.0]
    progress, bar = line(gpu, now)
    for number in range(8):
        progress.after_batch(bar, losses(number, 0.5), words, is_last=False)
        now[0] += progress_line.INTERVAL_S / 2
    assert [float(shown[22:33]) for shown in bar.shown] == [0, 2, 4, 6]
    assert bar.shown[0] == ("%11s" * 2 + "%11.4g" * 4) % ("1/3", "0G", 0, 0.5, 7, 64)


def test_what_is_still_on_its_way_is_shown_later_and_with_the_words_of_then(gpu, monkeypatch):
    there = [False]
    monkeypatch.setattr(OnTheWay, "is_there", lambda self: there[0])
    progress, bar = line(gpu, [100.0])
    progress.after_batch(bar, losses(1.0), words, is_last=False)
    progress.after_batch(bar, losses(2.0), lambda: Words("1/3", "0G", 9, 96), is_last=False)
    assert not bar.shown
    there[0] = True
    progress.after_batch(bar, losses(3.0), lambda: Words("1/3", "0G", 9, 96), is_last=False)
    assert bar.shown == [("%11s" * 2 + "%11.4g" * 3) % ("1/3", "0G", 1.0, 7, 64)]
    assert gpu.excused == 0  # nobody waited


def test_nothing_of_an_epoch_that_was_left_is_shown_in_the_next(gpu, monkeypatch):
    there = [False]
    monkeypatch.setattr(OnTheWay, "is_there", lambda self: there[0])
    progress, bar = line(gpu, [100.0])
    progress.after_batch(bar, losses(1.0), words, is_last=False)
    progress.begin_epoch()
    there[0] = True
    progress.after_batch(bar, losses(2.0), words, is_last=False)
    assert [float(shown[22:33]) for shown in bar.shown] == [2.0]


def test_a_model_without_losses_has_a_line_all_the_same(gpu):
    progress, bar = line(gpu, [100.0])
    progress.after_batch(bar, [], words, is_last=True)
    assert bar.shown == [("%11s" * 2 + "%11.4g" * 2) % ("1/3", "0G", 7, 64)]


def test_the_last_batch_of_an_epoch_is_waited_for(gpu, monkeypatch):
    monkeypatch.setattr(OnTheWay, "is_there", lambda self: False)
    progress, bar = line(gpu, [100.0])
    progress.after_batch(bar, losses(1.0), words, is_last=False)
    progress.after_batch(bar, losses(2.0), words, is_last=True)
    assert [float(shown[22:33]) for shown in bar.shown] == [2.0]
    assert gpu.excused == 1


def test_losses_are_those_of_the_moment_and_not_of_when_they_are_read():
    loss = torch.tensor(1.0)
    on_the_way = OnTheWay([loss, torch.tensor([3], dtype=torch.bfloat16)])
    loss.fill_(2.0)
    assert on_the_way.is_there()
    assert on_the_way.read() == [1.0, 3.0]
