# SPDX-License-Identifier: AGPL-3.0-or-later
"""Skipping an import of ultralytics that only makes sure that a module is there, or that is needed for one function of it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


@contextmanager
def put_off(name: str, **given: Any) -> Iterator[None]:
    """Within it `import name` alone does nothing. Whoever asks for something in the module, or comes later, gets the module itself.

    Args:
        name: of the module. One that is there already stays.
        given: what can be asked for without it.
    """
    if name in sys.modules:
        yield
        return
    stand_in = _NotYet(name)
    stand_in.__spec__ = _spec_of(name)  # somebody may look whether the module is there
    vars(stand_in).update(given)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        _take_away(stand_in)


@cache
def _spec_of(name: str) -> ModuleSpec | None:
    # Looked for once: it takes a part of a millisecond, of each frame of a stream.
    return importlib.util.find_spec(name)


class _NotYet(ModuleType):
    def __getattr__(self, attribute: str) -> Any:
        # Also asked for __path__ by `import name.submodule`.
        _take_away(self)
        return getattr(importlib.import_module(self.__name__), attribute)


def _take_away(stand_in: ModuleType) -> None:
    if sys.modules.get(stand_in.__name__) is stand_in:
        del sys.modules[stand_in.__name__]
