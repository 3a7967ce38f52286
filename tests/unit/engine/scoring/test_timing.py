# SPDX-License-Identifier: AGPL-3.0-or-later
"""What was done ahead of its turn is counted as what it took. The rest of the timing: test_validator.py."""

from __future__ import annotations

import threading

import pytest
import torch

from tests.unit.engine.test_validator import Event
from yolov12.engine.scoring import timing

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks 10 ms for each mark."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)


def test_a_part_that_was_done_before_counts_as_long_as_it_took() -> None:
    begin = timing.mark(GPU)
    Event.clock_ms += 100
    end = timing.mark(GPU)
    part, other = timing.EventProfile(GPU), timing.EventProfile(GPU)
    with part:
        Event.clock_ms += 5000
        timing.counts(begin, end)
    with other:
        pass
    assert part.dt == pytest.approx(0.11)
    assert other.dt == pytest.approx(0.01)
    with part:
        pass
    assert part.dt == pytest.approx(0.01)
    assert part.t == pytest.approx(0.12)


def test_only_what_is_timed_in_this_thread_is_told() -> None:
    marks = timing.mark(GPU), timing.mark(GPU)
    part = timing.EventProfile(GPU)
    with part:
        Event.clock_ms += 100
        other = threading.Thread(target=timing.counts, args=marks)
        other.start()
        other.join()
    timing.counts(*marks)  # nothing is being timed
    assert part.dt == pytest.approx(0.11)


def test_without_a_gpu_there_are_no_marks() -> None:
    assert timing.mark(torch.device("cpu")) is None
    with timing.profile(torch.device("cpu")) as part:
        timing.counts(None, None)
    assert part.dt >= 0
