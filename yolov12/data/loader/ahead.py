# SPDX-License-Identifier: AGPL-3.0-or-later
"""An iterator that runs in a thread of its own, a bounded number of items ahead of whoever takes them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from yolov12.log import warn

T = TypeVar("T")

PATIENCE_S = 60.0
"""After which a consumer that gets nothing says so, and again each time."""
CLOSING_S = 10.0
"""For the item in the making when the iterator is closed; a file system that does not answer must not keep a run from ending."""


class Ahead(Generic[T]):
    """The items of `source`, each made before it is asked for.

    What `source` raises is raised where its next item is asked for. `close` ends the thread: it waits until the item in the making is there.
    """

    def __init__(self, source: Iterator[T], depth: int, doing: Callable[[], str] = lambda: "") -> None:
        """Start.

        Args:
            source: is run to its end, or closed, in the thread.
            depth: most items that wait to be taken; at least 1.
            doing: what `source` is at, for the warning about an item that does not come.
        """
        self._source, self._depth, self._doing = source, depth, doing
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ends = self._closed = False
        self._error: BaseException | None = None
        # A daemon: a process that ends by an error elsewhere must not wait for pictures.
        self._thread = threading.Thread(target=self._run, name="yolov12-loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Ahead[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            while not self._items and not self._ends:
                if not self._changed.wait(PATIENCE_S):
                    warn(f"loader: no batch for another {PATIENCE_S:g} s; {self._doing()}")
            if self._items:
                self._changed.notify_all()
                return self._items.popleft()
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    def close(self) -> None:
        """End the thread and drop what was not taken. Calling it again does nothing."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()
        self._thread.join(CLOSING_S)
        if self._thread.is_alive():
            warn(f"loader: its thread did not end within {CLOSING_S:g} s and is left behind; {self._doing()}")
        self._items.clear()

    def _run(self) -> None:
        try:
            for item in self._source:
                if not self._hand_over(item):
                    break
        except BaseException as error:  # noqa: BLE001  # it belongs to whoever waits for the item
            self._error = error
        finally:
            close = getattr(self._source, "close", None)  # a generator's, so that its own clean-up runs here and now
            if close is not None:
                close()
            with self._changed:
                self._ends = True
                self._changed.notify_all()

    def _hand_over(self, item: T) -> bool:
        """Whether there is still someone who takes items."""
        with self._changed:
            while len(self._items) >= self._depth and not self._closed:
                self._changed.wait()
            if not self._closed:
                self._items.append(item)
                self._changed.notify_all()
            return not self._closed
