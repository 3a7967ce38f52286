# SPDX-License-Identifier: AGPL-3.0-or-later
"""What times of several ways say: totals, the rate, which choices were not the fastest and what they lose."""

from __future__ import annotations

import pytest

from benchmarks.kernels import contest
from benchmarks.kernels.contest import OTHER, OURS, Contest, Result

TILES = ("small", "large")


def chosen(us: dict[str, float], took: str = "small", times: int = 1, words: str = "64>64") -> Result:
    return Result(Contest(words, 0, lambda sets: {}, times, chosen=took, choices=TILES), us)


def pair(other: float, ours: float, moved_bytes: int = 0, times: int = 1) -> Result:
    return Result(Contest("map", moved_bytes, lambda sets: {}, times), {OTHER: other, OURS: ours})


def test_ours_is_what_the_code_chooses_and_not_the_fastest():
    result = chosen({OTHER: 9.0, "small": 5.0, "large": 4.0})
    assert (result.other_us, result.ours_us, result.fastest, result.lost_us) == (9.0, 5.0, "large", 1.0)


def test_what_is_faster_by_less_than_the_noise_is_no_loss():
    result = chosen({OTHER: 9.0, "small": 5.0, "large": 4.9})
    assert (result.fastest, result.lost_us) == ("small", 0.0)


def test_a_way_beside_the_choices_is_never_the_fastest_of_them():
    assert chosen({OTHER: 1.0, "small": 5.0, "large": 6.0, "early": 2.0}).fastest == "small"


def test_a_choice_that_could_not_run_is_left_out():
    assert chosen({OTHER: 1.0, "small": 5.0}).fastest == "small"


def test_without_choices_nothing_is_lost():
    assert (pair(9.0, 5.0).fastest, pair(9.0, 5.0).lost_us, pair(9.0, 5.0).ours_us) == (None, 0.0, 5.0)


def test_a_line_has_every_way_the_choice_and_the_rate():
    result = Result(
        Contest("64>64 3x3", 10_000_000, lambda sets: {}, 6, chosen="small", choices=TILES),
        {OTHER: 9.0, "small": 5.0, "large": 4.0},
        {"early": "no such thing"},
    )
    assert contest.line(result) == (
        "6 x 64>64 3x3: torch 9.00, small 5.00, large 4.00 us 2.00 TB/s | chosen small, fastest large, 20 % lost "
        "| early FAILED: no such thing"
    )
    assert contest.line(pair(9.0, 5.0)) == "1 x map: torch 9.00, ours 5.00 us"


def test_a_line_tells_of_a_choice_that_could_not_run():
    result = Result(chosen({}).contest, {OTHER: 9.0, "large": 4.0}, {"small": "no kernel image"})
    assert contest.line(result) == "1 x 64>64: torch 9.00, large 4.00 us | small FAILED: no kernel image"


def test_totals_count_a_shape_as_often_as_the_network_has_it():
    results = [pair(9.0, 5.0, times=2), pair(1.0, 2.0)]
    assert contest.total_us(results, lambda one: one.other_us) == 19.0
    assert contest.total_us(results, lambda one: one.ours_us) == 12.0


def test_the_note_names_the_choices_that_lose_most():
    results = [
        chosen({OTHER: 9.0, "small": 5.0, "large": 4.0}, times=2, words="a"),
        chosen({OTHER: 9.0, "small": 5.0, "large": 4.5}, words="b"),
        chosen({OTHER: 9.0, "small": 5.0, "large": 5.0}, words="c"),
    ]
    assert contest.summary(results) == (
        "3 shapes, 4 calls, choices lose 2.5 us (12.5 %), in 2 shapes: a took small, fastest large, 20 % lost; "
        "b took small, fastest large, 10 % lost"
    )


def test_the_note_has_the_rate_and_further_ways_that_every_shape_has():
    results = [pair(9.0, 4.0, 8_000_000), pair(9.0, 6.0, 2_000_000)]
    assert contest.summary(results) == "2 shapes, 2 calls, 1.00 TB/s"
    with_early = [Result(one.contest, {**one.us, "early": 3.0}) for one in results]
    assert contest.summary(with_early, ["early"]) == "2 shapes, 2 calls, 1.00 TB/s, early 6.0 us"
    assert "early" not in contest.summary([*with_early, results[0]], ["early"])


def test_what_could_not_run_is_said_once():
    result = Result(pair(9.0, 4.0).contest, {OTHER: 9.0, OURS: 4.0}, {"early": "not on sm_80"})
    assert contest.summary([result, result]) == "2 shapes, 2 calls; could not run: early: not on sm_80"


@pytest.mark.parametrize(
    ("ours", "expected"),
    [([1, 1, 1], 4), ([1, 1, 2], 2), ([2, 1, 1], None), ([1, 2, 1], 1), ([1.02, 1.02, 1.04], 2)],
)
def test_up_to_which_size_ours_is_no_slower(ours: list[float], expected: int | None):
    results = {size: pair(1.0, us) for size, us in zip((4, 1, 2), (ours[2], ours[0], ours[1]), strict=True)}
    assert contest.largest_before(results) == expected
