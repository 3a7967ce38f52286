# SPDX-License-Identifier: AGPL-3.0-or-later
"""Threads that read pictures. Unlike concurrent.futures' they do not keep a process from ending: a file system that is gone may never answer."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


Work = tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]
Waiting = queue.SimpleQueue[Work | None]
"""None ends the thread that takes it."""


class Threads:
    """Runs functions in the order in which they come. Any thread may call its methods. The threads begin with the first function, and end with
    the object, closed or not.

    Args:
        count: of threads.
        name: of each, with its number behind.
    """

    def __init__(self, count: int, name: str) -> None:
        self._waiting: Waiting = queue.SimpleQueue()
        # They know the queue alone: one that knew this object would keep it.
        self._threads = [
            threading.Thread(target=_run, args=(self._waiting,), name=f"{name}_{number}", daemon=True)
            for number in range(count)
        ]
        weakref.finalize(self, _end, self._waiting, count).atexit = False
        self._closing = threading.Lock()
        self._is_closed = False
        self._has_begun = False

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """What the function will answer or raise.

        Raises:
            RuntimeError: after `close`, when nobody would answer.
        """
        answer: Future[T] = Future()
        with self._closing:
            if self._is_closed:
                raise RuntimeError("the reading threads are closed")
            if not self._has_begun:
                self._has_begun = True
                for thread in self._threads:
                    thread.start()
            self._waiting.put((answer, function, arguments))
        return answer

    def close(self, within_s: float) -> int:
        """Drop what no thread has begun, and wait for the rest; calling it again does nothing.

        Returns:
            How many threads were still busy after that time. They end with what they are doing, or with the process.
        """
        with self._closing:
            self._is_closed = True
        while not self._waiting.empty():
            try:
                dropped = self._waiting.get_nowait()
            except queue.Empty:  # a thread was faster
                break
            if dropped is not None:
                dropped[0].cancel()
        _end(self._waiting, len(self._threads))
        until_s = time.monotonic() + within_s
        for thread in self._threads if self._has_begun else ():
            thread.join(max(until_s - time.monotonic(), 0))
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return len(self._threads)


def _run(waiting: Waiting) -> None:
    while (work := waiting.get()) is not None:
        answer, function, arguments = work
        if not answer.set_running_or_notify_cancel():
            continue
        try:
            answer.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits for the answer
            answer.set_exception(error)
        del work, answer, function, arguments  # not kept while it waits


def _end(waiting: Waiting, count: int) -> None:
    for _ in range(count):
        waiting.put(None)
