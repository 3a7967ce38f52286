# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the collector of reference cycles looks through, and what not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from yolov12.uncollected import collect, left_alone, uncollected


class Cycle:
    """Garbage for the collector, once nobody else refers to it."""

    def __init__(self) -> None:
        self.own = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def garbage() -> weakref.ref[Cycle]:
    return weakref.ref(Cycle())


def test_no_look_for_garbage_inside() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_what_is_there_at_the_beginning_is_left_alone_inside() -> None:
    gc.collect()
    before = garbage()
    with left_alone():
        assert gc.get_freeze_count() > 0
        inside = garbage()
        gc.collect()
        assert before() is not None
        assert inside() is None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert before() is None


@pytest.mark.parametrize("where", ["around", "alone", "inside"])
def test_objects_that_somebody_else_has_frozen_stay_frozen(where: str) -> None:
    kept: list[Any] = []
    if where != "inside":
        gc.freeze()
    if where == "alone":
        collect()
    else:
        with left_alone():
            collect()
            if where == "inside":  # after ours were thawed
                gc.freeze()
    # The collector's lists have no frozen objects. How many these are tells nothing: one that is let go of meanwhile is frozen no more.
    assert not any(one is kept for one in gc.get_objects())


def test_where_memory_is_needed_all_garbage_goes() -> None:
    gc.collect()
    before = garbage()
    with left_alone():
        collect()
        assert before() is None
