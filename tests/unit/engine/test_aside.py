# SPDX-License-Identifier: AGPL-3.0-or-later
"""Work beside a run does not hold it up, is done when it is waited for, and says when it failed."""

from __future__ import annotations

import threading

import pytest

from yolov12.engine.aside import Aside


def test_work_goes_on_until_it_is_waited_for() -> None:
    aside, may_end, done = Aside(), threading.Event(), []
    aside.run("waiting", lambda: may_end.wait(30) and done.append(1))
    assert not done
    may_end.set()
    aside.join()
    assert done == [1]


def test_a_failure_is_said_once_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    aside = Aside()
    aside.run("drawing labels.jpg", lambda: 1 // 0)
    aside.join()
    aside.join()
    assert capsys.readouterr().err == (
        "WARNING drawing labels.jpg failed: ZeroDivisionError: integer division or modulo by zero\n"
    )


def test_a_second_piece_of_work_waits_for_the_first() -> None:
    aside, order = Aside(), []
    aside.run("first", lambda: order.append(1))
    aside.run("second", lambda: order.append(2))
    aside.join()
    assert order == [1, 2]
