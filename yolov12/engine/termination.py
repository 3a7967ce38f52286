# SPDX-License-Identifier: AGPL-3.0-or-later
"""A scheduler's request to end, heard between two steps instead of in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""`docker stop` and Kubernetes send the first; Slurm, asked by `--signal=USR1@60`, the second."""


@contextmanager
def unheard() -> Iterator[None]:
    """While entered, `SIGNALS` do nothing: this process is ending already, and has still to say why."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Termination:
    """While entered, the first of `SIGNALS` is only noted; the second acts as if nobody listened, so that it always helps.

    Outside the main thread, where Python delivers no signals, nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = ""
        """The signal's name, or "" as long as none came."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        self.__exit__()
        # Not by print: the signal may have come while stderr was being written to, which Python's streams refuse to enter again.
        os.write(
            2, f"{self.requested}: training ends after the step that runs, or at once where it validates\n".encode()
        )
