# SPDX-License-Identifier: AGPL-3.0-or-later
"""One line per fact, on stderr, so that a verb's result on stdout stays parseable.

Rank 0 speaks for facts; any rank may warn.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_said: set[str] = set()


def rank() -> int:
    """This process's rank as the launcher set it; 0 for a single process."""
    return _whole("RANK", 0)


def speaker() -> str:
    """Which rank speaks, to stand before what it says; "" where there is one."""
    return f"[rank {rank()}] " if _whole("WORLD_SIZE", 1) > 1 else ""


def _whole(name: str, default: int) -> int:
    """A launcher's variable; `default` for what is no number, which is refused where launchers are read (distributed/launchers.py)."""
    text = os.environ.get(name, "").strip()
    return int(text) if text.isdecimal() else default


def program() -> str:
    """How `yolov12` is typed here: by its name where the shell finds it, else by its path."""
    beside = Path(sys.executable).parent / "yolov12"
    found = shutil.which("yolov12")
    if not beside.is_file() or (found and os.path.samefile(found, beside)):
        return "yolov12"
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)


def say(line: str) -> None:
    """State a fact once per run group: rank 0 prints it, the others stay silent."""
    if rank() == 0:
        print(line, file=sys.stderr, flush=True)


def say_once(key: str, line: str) -> None:
    """`say` the first time that `key` comes by in this process."""
    if key not in _said:
        _said.add(key)
        say(line)


def warn(line: str) -> None:
    """Warn from whichever rank saw it, naming the rank when there are several."""
    print(f"WARNING {speaker()}{line}", file=sys.stderr, flush=True)


@contextmanager
def without(beginning: str, logger: str, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Within it, what the library's `logger` says with this beginning is not said; all else is.

    Args:
        beginning: of the message, as it would be read.
        logger: its name. Messages of loggers below it do not pass its filters.
        unless: asked at each such message; true lets it through.
    """

    def is_said(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning) or unless()

    found = logging.getLogger(logger)
    found.addFilter(is_said)
    try:
        yield
    finally:
        found.removeFilter(is_said)
