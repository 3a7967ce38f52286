# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files that are whole or absent (promise 4): written aside, synced, renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolov12.errors import RetryableError, UserError
from yolov12.folders import is_full_disk

PART = ".part"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The path of an empty file beside `path`, which takes its place when the block ends well; else nothing remains of it.

    The bytes are on disk before the one rename, so a reader meets the old file or the whole new one, also after a power cut.

    Raises:
        RetryableError: the disk is full; what stood at `path` is intact.
        UserError: the folder can not be written to.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    except OSError as error:
        if is_full_disk(error):
            raise _no_room(error, path) from error
        raise UserError(f"can not write {path}: {(error.strerror or str(error)).lower()}") from error
    part = Path(name)
    try:
        yield part
        os.fchmod(descriptor, 0o666 & ~_umask())  # mkstemp's files are private
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:
        if is_full_disk(error):
            raise _no_room(error, path) from error
        raise
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Delete what processes that were killed while they wrote left in `folder`. Only for a folder that nobody else writes to now."""
    for part in folder.glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def _no_room(error: BaseException, path: Path) -> RetryableError:
    kept = "what was saved there before is intact; " if path.exists() else ""
    reason = getattr(error, "strerror", None) or "torch.save could not write all of it"
    return RetryableError(f"no room to save {path} ({reason}); {kept}make room and run the same command again")


def _umask() -> int:
    """This process's umask. Read from the kernel, since os.umask can only be read by changing it, for all threads."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("Umask:")), 8)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
