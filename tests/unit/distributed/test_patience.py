# SPDX-License-Identifier: AGPL-3.0-or-later
"""For whom a rank waits and when it gives up, by what it sees of the others. No processes, no clock."""

from __future__ import annotations

import pytest

from yolov12.distributed.patience import LONG_WORK_S, Judge
from yolov12.distributed.pulse import Seen, Sign

IN_STEP, WAITING, SAVING = Sign(step=6), Sign(step=7, waits=True), Sign(step=7, doing="saving the checkpoint")


def judge() -> Judge:
    return Judge(timeout_s=5, now_s=100, step=7)


def alive(*signs: Sign) -> dict[int, Seen]:
    return {rank: Seen(sign, 0.5) for rank, sign in enumerate(signs)}


def test_last_words_end_the_wait_at_once() -> None:
    seen = alive(WAITING, Sign(step=7, words="no room to save last.pt"))
    assert judge().why_not_wait(seen, 100.5) == "rank 1 failed at step 7: no room to save last.pt"


def test_a_rank_without_a_sign_of_life_is_named_after_the_timeout() -> None:
    seen = {0: Seen(WAITING, 0.5), 1: Seen(SAVING, 5.1)}
    assert judge().why_not_wait(seen, 105.1) == "rank 1 (step 7, saving the checkpoint) gave no sign of life for 5 s"
    assert judge().why_not_wait({1: Seen(SAVING, 4.9)}, 104.9) is None


def test_a_rank_that_lives_but_does_not_come_is_named_and_not_those_that_wait_for_it_too() -> None:
    assert judge().why_not_wait(alive(WAITING, IN_STEP), 104.9) is None
    assert judge().why_not_wait(alive(WAITING, IN_STEP), 105.1) == "rank 1 (step 7) did not come for 5 s"


def test_declared_work_is_waited_for_and_the_timeout_begins_when_it_is_done() -> None:
    ours = judge()
    assert ours.why_not_wait(alive(SAVING, WAITING), 101) is None
    assert ours.why_not_wait(alive(SAVING, WAITING), 400) is None
    assert ours.why_not_wait(alive(IN_STEP, WAITING), 404) is None
    assert "rank 0" in str(ours.why_not_wait(alive(IN_STEP, WAITING), 405.5))


def test_declared_work_that_never_ends_has_its_own_limit() -> None:
    ours = judge()
    ours.why_not_wait(alive(SAVING), 101)
    assert "more than 4 hours" in str(ours.why_not_wait(alive(SAVING), 102 + LONG_WORK_S))


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (alive(SAVING, WAITING), "waiting for rank 0: saving the checkpoint, 40 s"),
        (alive(WAITING, IN_STEP), "waiting for rank 1: step 7, 40 s"),
        ({}, "waiting for the other ranks, 40 s"),
    ],
)
def test_the_news_say_for_whom_and_why(seen: dict[int, Seen], line: str) -> None:
    assert judge().news(seen, 140) == line


def test_nothing_seen_at_all_ends_with_the_timeout() -> None:
    assert judge().why_not_wait({}, 104) is None
    assert judge().why_not_wait({}, 106) == (
        "no other rank came, and no sign of life of any could be read, for 5 s (step 7): is the first machine cut off?"
    )


def test_where_rank_0_keeps_the_signs_it_is_the_one_that_is_named() -> None:
    ours = Judge(timeout_s=5, now_s=100, step=7, kept_by_rank_0=True)
    assert str(ours.why_not_wait({}, 106)).startswith(
        "rank 0 (step 7) gave no sign of life for 5 s, nor could those of other"
    )
