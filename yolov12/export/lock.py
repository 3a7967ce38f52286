# SPDX-License-Identifier: AGPL-3.0-or-later
"""One process at a time: a lock on a file that says who holds it. The kernel lets go when its owner dies."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from yolov12.folders import is_full_disk
from yolov12.log import say


@contextmanager
def held(path: Path, waits_for: str, tell: Callable[[str], None] = say) -> Iterator[None]:
    """Hold the lock for the length of the block. While another process has it, say who and wait.

    Args:
        path: the lock's file, made if need be; it stays.
        waits_for: what the other process is doing, for the line.
        tell: where the line goes.
    """
    with _locked(path, waits_for, tell) as file:
        _sign(file.fileno())
        try:
            yield
        finally:
            os.ftruncate(file.fileno(), 0)


@contextmanager
def held_at_once(path: Path) -> Iterator[bool]:
    """Hold the lock if nobody has it; gives whether it is held."""
    with path.open("a+") as file:
        yield _taken(file.fileno())


def _locked(path: Path, waits_for: str, tell: Callable[[str], None]) -> IO[str]:
    """The file, opened and locked, and still the one of that name: who removes a cache's entry while others wait for it removes its lock too,
    and those who come later would lock another file.
    """
    while True:
        file = path.open("a+")
        if not _taken(file.fileno()):
            file.seek(0)
            tell(f"waiting: {waits_for} in {file.read().strip() or 'another process'}")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:
            pass
        file.close()


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    try:
        os.write(
            descriptor, f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%H:%M:%S')}".encode()
        )
    except OSError as error:
        if not is_full_disk(error):  # it holds without a name
            raise
