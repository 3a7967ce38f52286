# SPDX-License-Identifier: AGPL-3.0-or-later
"""Numbers of a long run in little room."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov12.memory.usage import LIMIT, Course, Point, Spread


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=50))
def test_the_spread_is_that_of_all_numbers(numbers):
    spread = Spread()
    for number in numbers:
        spread.add(number)
    assert spread.mean == pytest.approx(statistics.fmean(numbers), rel=1e-9, abs=1e-6)
    assert spread.std == pytest.approx(statistics.pstdev(numbers), rel=1e-6, abs=1e-3)


def test_without_numbers_there_is_no_spread():
    assert (Spread().mean, Spread().std) == (0.0, 0.0)


@given(st.integers(1, 5 * LIMIT), st.data())
def test_however_long_a_run_is_few_points_are_kept_and_the_highest_step_is_among_them(steps, data):
    high = data.draw(st.integers(0, steps - 1))
    course = Course()
    for step in range(steps):
        course.add(Point(step, 9 if step == high else 1, None))
    assert len(course.points) <= LIMIT
    assert [point.peak for point in course.points].count(9) == 1
    assert max(point.step for point in course.points if point.step <= high) == next(
        point.step for point in course.points if point.peak == 9
    )


def test_the_tightest_budget_of_joined_steps_is_kept():
    course = Course(stride=4)
    for step, budget in enumerate((None, 5, 3, 4)):
        course.add(Point(step, 1, budget))
    assert course.points == [Point(0, 1, 3)]
