# SPDX-License-Identifier: AGPL-3.0-or-later
"""A command that is asked to end by SIGTERM, as `docker stop` and schedulers ask, and takes with it what it has half made.

Ctrl-C is an exception, on whose way out temporary files go; Python ends at once on SIGTERM. A training ends in its own way (engine/termination.py).
Where a library would drop that exception, both signals wait for it to end.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from yolov12.errors import TERMINATED


@contextmanager
def as_an_exception() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit in the main thread, which must be the one that calls.

    Python raises it once its own code runs again: a library's call of minutes is waited for.
    """

    def end(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would come in the middle of the clearing up
        os.write(
            2, b"asked to end by SIGTERM\n"
        )  # not by print: the signal may have come while stderr was being written to
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: one that Python did not set


@contextmanager
def held(who: str) -> Iterator[None]:
    """Within the block Ctrl-C and SIGTERM wait, which a line says; at its end what came first does what it did before.

    For a library that calls Python back and drops what is raised there: Python raises the exception of a signal in whichever of its code runs next.

    Args:
        who: is waited for, in that line.
    """
    came: list[int] = []

    def note(number: int, _: Any) -> None:
        if not came:
            os.write(2, f"{who} can not be interrupted: this ends when it is done\n".encode())  # not by print: as above
        came.append(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            # What is not callable Python has no part in: the signal is ignored, or ends the process at once.
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if came:
            signal.raise_signal(came[0])
