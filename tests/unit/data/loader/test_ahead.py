# SPDX-License-Identifier: AGPL-3.0-or-later

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from yolov12.data.loader import ahead
from yolov12.data.loader.ahead import Ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("yolov12")]


def test_items_come_in_order_and_the_thread_ends():
    running = Ahead(iter(range(50)), depth=3)
    assert list(running) == list(range(50))
    running.close()
    assert threads() == []


def test_no_more_than_the_depth_is_made_ahead():
    made: list[int] = []
    waits = threading.Event()

    def source() -> Iterator[int]:
        for number in range(10):
            made.append(number)
            if number == 3:
                waits.set()
            yield number

    running = Ahead(source(), depth=2)
    assert next(running) == 0
    waits.wait(5)
    assert made == [0, 1, 2, 3]  # one taken, two waiting, one in hand
    running.close()
    assert made == [0, 1, 2, 3]
    assert threads() == []


class BadPictureError(Exception):
    pass


def test_an_error_comes_where_its_item_is_asked_for():
    def source() -> Iterator[int]:
        yield 1
        raise BadPictureError("second")

    running = Ahead(source(), depth=5)
    assert next(running) == 1
    with pytest.raises(BadPictureError, match="second"):
        next(running)
    with pytest.raises(StopIteration):
        next(running)
    running.close()
    assert threads() == []


def test_closing_lets_the_source_clean_up_in_its_own_thread():
    cleaned: list[str] = []

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            cleaned.append(threading.current_thread().name)

    running = Ahead(source(), depth=1)
    assert next(running) == 1
    running.close()
    running.close()
    assert cleaned == ["yolov12-loader"]


def test_a_consumer_that_gets_nothing_says_what_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(ahead, "PATIENCE_S", 0.05)
    goes_on = threading.Event()

    def source() -> Iterator[int]:
        goes_on.wait(5)
        yield 1

    running = Ahead(source(), depth=1, doing=lambda: goes_on.set() or "it is at batch 7")  # type: ignore[func-returns-value]
    assert next(running) == 1
    assert "no batch for another 0.05 s; it is at batch 7" in capsys.readouterr().err
    running.close()


def test_a_source_that_hangs_does_not_keep_a_run_from_ending(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(ahead, "CLOSING_S", 0.05)
    goes_on = threading.Event()

    def source() -> Iterator[int]:
        goes_on.wait(5)
        yield 1

    running = Ahead(source(), depth=1)
    running.close()
    assert "left behind" in capsys.readouterr().err
    goes_on.set()
    running._thread.join(5)
