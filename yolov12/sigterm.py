# SPDX-License-Identifier: AGPL-3.0-or-later
"""A command that is asked to end by SIGTERM, as `docker stop` and schedulers ask, and takes with it what it has half made.

Ctrl-C is an exception, on whose way out temporary files go; Python ends at once on SIGTERM. A training ends in its own way (engine/termination.py).
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ASKED_TO_END = 143
"""The exit code: 128 and the number of SIGTERM."""


@contextmanager
def as_an_exception() -> Iterator[None]:
    """Within the block SIGTERM raises SystemExit in the main thread, which must be the one that calls."""

    def end(*_: Any) -> None:
        raise SystemExit(ASKED_TO_END)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
