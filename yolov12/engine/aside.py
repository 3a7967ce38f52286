# SPDX-License-Identifier: AGPL-3.0-or-later
"""Work that a run need not wait for, beside it in a thread, until somebody wants to be sure that it is done."""

from __future__ import annotations

import threading
from collections.abc import Callable

from yolov12.log import warn


class Aside:
    """At most one piece of work at a time, since what draws plots shares matplotlib's state."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._failure = ""

    def run(self, what: str, work: Callable[[], object]) -> None:
        """Start `work` and return; `what` names it in a warning if it fails."""
        self.join()

        def attempt() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  # whatever a plot raises, the training goes on; `join` says it
                self._failure = f"{what} failed: {type(error).__name__}: {error}"

        self._thread = threading.Thread(target=attempt, name="aside")
        self._thread.start()

    def join(self) -> None:
        """Wait for it, and warn if it failed. Nothing to do where nothing runs."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._failure:
            warn(self._failure)
            self._failure = ""
