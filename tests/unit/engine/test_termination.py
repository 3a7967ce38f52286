# SPDX-License-Identifier: AGPL-3.0-or-later
"""A signal is noted, not obeyed at once; the second one is."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from yolov12.engine.termination import SIGNALS, Termination, unheard


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    with Termination() as termination:
        assert not termination.requested
        os.kill(os.getpid(), number)
        assert termination.requested == number.name


def test_the_second_signal_does_what_it_did_before() -> None:
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("theirs"))
    try:
        with Termination():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["theirs"]


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Termination():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_process_that_ends_already_hears_none_until_it_has_said_why() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with unheard():
        for number in SIGNALS:
            os.kill(os.getpid(), number)  # by default it would end this process
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_thread_other_than_the_main_one_changes_nothing() -> None:
    seen = []

    def enter() -> None:
        with Termination():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
