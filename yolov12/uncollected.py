# SPDX-License-Identifier: AGPL-3.0-or-later
"""Work without Python's collector of reference cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """For work that makes many objects and no cycles: it would make the collector look again and again through all that the process has."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def left_alone() -> Iterator[None]:
    """For a block that may run for hours: the collector never looks at what there is when it begins, as all that was imported.

    Nothing to do where somebody else has frozen objects, who may want them to stay so.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def collect() -> None:
    """Collect everything now, also what a `left_alone` block around this call would spare: an earlier run's model may lie there."""
    gc.unfreeze()
    gc.collect()
