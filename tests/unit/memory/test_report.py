# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a user reads of a run's memory."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from yolov12.memory.history import Event
from yolov12.memory.report import SHOWN_EVENTS, Epoch, Summary, header, lines, row, tells_something, worst

GIB = 2**30
QUIET = Epoch(1, 4.0, 5.0, 0.5, 0, 0, 1, 0, 0, 0.0)
UNCOUNTED = replace(QUIET, peak_allocated_gib=None, peak_reserved_so_far_gib=None, step_peaks_std_gib=None)
CALM = Summary(0, {"forward": 3 * GIB, "loss": 4 * GIB, "between steps": GIB}, 5 * GIB, 3.5 * GIB, 0.25 * GIB, 0.0, ())


def test_a_row_has_a_value_for_each_name_and_unknown_sizes_are_empty():
    (found,) = csv.DictReader(io.StringIO(header() + row(UNCOUNTED)))
    assert found["epoch"] == "1"
    assert found["peak_allocated_gib"] == ""
    assert found["share_of_forward_computed_again"] == "0"


def test_an_epoch_of_which_nothing_is_known_and_in_which_nothing_happened_is_no_row():
    assert not tells_something(UNCOUNTED)


def test_an_epoch_with_sizes_or_with_events_is_a_row():
    assert tells_something(QUIET)
    assert tells_something(replace(UNCOUNTED, repeated_steps=1))
    assert tells_something(replace(UNCOUNTED, share_of_forward_computed_again=0.1))


def test_the_row_of_several_ranks_is_that_of_the_tightest_with_all_plan_changes():
    other = replace(QUIET, peak_allocated_gib=6.0, step_peaks_std_gib=0.1, repeated_steps=2, plan_changes=3)
    found = worst([replace(QUIET, repeated_steps=2, plan_changes=1), other])
    assert (found.peak_allocated_gib, found.peak_reserved_so_far_gib, found.step_peaks_std_gib) == (6.0, 5.0, 0.1)
    assert (found.repeated_steps, found.plan_changes) == (2, 4)


def test_a_run_without_trouble_is_one_line_with_the_peak_of_each_phase():
    assert lines([CALM]) == [
        "memory: at most 4.00 GiB in use and 5.00 held; forward 3.00, loss 4.00; a step's peak 3.50 GiB, standard deviation 0.25"
    ]


def test_a_run_of_which_nothing_is_known_and_in_which_nothing_happened_is_no_line():
    assert lines([replace(CALM, phases={}, mean=0.0)]) == []


def test_what_happened_is_counted_and_changes_are_shown_in_their_order():
    events = (Event(7, "retry", "rank 0: full"), Event(7, "plan", "b -> c"), Event(9, "plan", "a -> b"))
    _, counted, *changes = lines([replace(CALM, events=events, share=0.126)])
    assert counted == (
        "memory: 1 attempt at a step ran out of memory and was repeated; the plan changed 2 times; "
        "on average 13 % of what forward costs was computed again in backward"
    )
    assert changes == ["memory:   step 8: b -> c", "memory:   step 10: a -> b"]


def test_steps_on_smaller_images_are_counted():
    assert "memory: 3 steps ran on smaller images than you asked for (mas_data=1)" in lines(
        [replace(CALM, smaller_steps=3), CALM]
    )
    assert tells_something(replace(UNCOUNTED, steps_on_smaller_images=1))
    assert worst([QUIET, replace(QUIET, steps_on_smaller_images=2)]).steps_on_smaller_images == 2


def test_a_repeated_update_is_shown_too():
    assert lines([replace(CALM, events=(Event(3, "update", "full"),))])[-1] == "memory:   step 3: full"


def test_hundreds_of_events_do_not_fill_the_screen():
    found = lines([replace(CALM, events=tuple(Event(i, "plan", "a -> b") for i in range(300)))])
    assert len(found) == 2 + SHOWN_EVENTS + 1
    assert found[-1].startswith(f"memory:   and {300 - SHOWN_EVENTS} more")


def test_of_several_ranks_the_one_that_needed_most_is_named_and_events_say_where():
    tight = replace(CALM, rank=1, phases={"forward": 6 * GIB}, events=(Event(2, "plan", "a -> b"),))
    first, *_, last = lines([CALM, tight])
    assert "at most 6.00 GiB in use and 5.00 held on rank 1 of 2 (rank 0, the least: 4.00)" in first
    assert last == "memory:   step 3, rank 1: a -> b"
