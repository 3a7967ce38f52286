# SPDX-License-Identifier: AGPL-3.0-or-later
"""A command that is asked to end by SIGTERM, as `docker stop` and schedulers ask, and takes with it what it has half made.

Ctrl-C is an exception, on whose way out temporary files go; Python ends at once on SIGTERM. A training ends in its own way (engine/termination.py).
"""

from __future__ import annotations

import os
import signal
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
