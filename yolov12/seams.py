# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where this package reaches into ultralytics, or behind torch's API, written down so that a test can tell when the pin moves under it.

Each module that patches or subclasses them lists its `SEAMS`: the place, as a reader would look it up, and a digest of the source that
was read when the patch was written. A digest that no longer matches says: read that place again before trusting the patch.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Seam:
    """One place in the pinned ultralytics, or torch, that we replace or rely on."""

    file: str
    """Path inside the package, for example `engine/trainer.py`."""
    line: int
    """Line where it starts in the pinned version."""
    qualname: str
    """Importable dotted name, for example `ultralytics.engine.trainer.BaseTrainer.save_model`."""
    digest: str
    """`digest_of(qualname)` in the pinned version."""


def digest_of(qualname: str) -> str:
    """First 12 hex digits of the sha256 of the source text of `qualname`."""
    return hashlib.sha256(inspect.getsource(_find(qualname)).encode()).hexdigest()[:12]


def line_of(qualname: str) -> int:
    """Line on which the definition of `qualname` starts."""
    return inspect.getsourcelines(_find(qualname))[1]


def _find(qualname: str) -> Any:
    parts = qualname.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: ModuleType | Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = inspect.getattr_static(found, name)
        found = getattr(found, "fget", found)  # a property's source is its getter's
        return getattr(found, "__func__", found)  # a static method's is the function's
    raise ModuleNotFoundError(f"no module in {qualname!r}")


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Set attributes of a module, class or object for the length of a block, then put back what was there."""
    before = {name: getattr(owner, name) for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
