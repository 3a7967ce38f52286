# SPDX-License-Identifier: AGPL-3.0-or-later
"""Work without Python's collector of reference cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_is_frozen_by_us = False
"""Whether what is frozen is what a `left_alone` block froze. Python keeps no account of who froze what: thawing is for all of it."""


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

    Nothing to do where somebody else has frozen objects, who may want them to stay so. What somebody freezes inside the block is thawed at its end.
    """
    global _is_frozen_by_us
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    _is_frozen_by_us = True
    try:
        yield
    finally:
        _thaw()


def collect() -> None:
    """Collect everything now, also what a `left_alone` block around this call would spare: an earlier run's model may lie there.

    What somebody else had frozen before stays so, and is not looked at.
    """
    _thaw()
    gc.collect()


def _thaw() -> None:
    global _is_frozen_by_us
    if _is_frozen_by_us:
        gc.unfreeze()
        _is_frozen_by_us = False
