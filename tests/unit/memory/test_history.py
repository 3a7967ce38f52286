# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is remembered of a run's memory."""

from __future__ import annotations

from yolov12.memory.history import Event, History


def test_an_event_says_how_many_steps_came_before_it():
    history = History()
    history.steps = 7
    history.note("plan", "1 -> 2")
    assert history.events == [Event(7, "plan", "1 -> 2")]


def test_events_are_counted_by_their_kind():
    history = History()
    history.note("plan", "1 -> 2")
    history.note("retry", "rank 0: out of memory")
    history.note("retry", "rank 1: out of memory")
    assert (history.count("plan"), history.count("retry"), history.count("split")) == (1, 2, 0)
