# SPDX-License-Identifier: AGPL-3.0-or-later
"""Skipping an import of ultralytics that only makes sure that a module is there, or that is needed for one function of it."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_one_thread = threading.Lock()


@contextmanager
def put_off(name: str, **given: Any) -> Iterator[None]:
    """Within it `import name` alone does nothing. Whoever asks for something in the module, or comes later, gets the module itself.

    Args:
        name: of the module. One that is there already stays.
        given: what can be asked for without it.
    """
    stand_in = _entered(name, given)
    try:
        yield
    finally:
        if stand_in is not None:
            _left(stand_in)


def itself(name: str) -> ModuleType:
    """The module, also within a block that puts it off."""
    with _one_thread:
        if isinstance(stand_in := sys.modules.get(name), _NotYet):
            _take_away(stand_in)
    return importlib.import_module(name)


@cache
def _spec_of(name: str) -> ModuleSpec | None:
    # Looked for once: it takes a part of a millisecond, of each frame of a stream.
    return importlib.util.find_spec(name)


class _NotYet(ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = _spec_of(name)  # somebody may look whether the module is there
        self._users = 0

    def __getattr__(self, attribute: str) -> Any:
        # Also asked for __path__ by `import name.submodule`.
        return getattr(itself(self.__name__), attribute)


def _entered(name: str, given: dict[str, Any]) -> _NotYet | None:
    """The stand-in in the module's place, which blocks of several threads share; None where the module is there."""
    with _one_thread:
        stand_in = sys.modules.get(name)
        if stand_in is None:
            stand_in = sys.modules[name] = _NotYet(name)
        if not isinstance(stand_in, _NotYet):
            return None
        vars(stand_in).update(given)
        stand_in._users += 1
        return stand_in


def _left(stand_in: _NotYet) -> None:
    with _one_thread:
        stand_in._users -= 1
        if not stand_in._users:
            _take_away(stand_in)


def _take_away(stand_in: _NotYet) -> None:
    if sys.modules.get(stand_in.__name__) is stand_in:
        del sys.modules[stand_in.__name__]
