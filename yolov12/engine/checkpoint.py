# SPDX-License-Identifier: AGPL-3.0-or-later
"""Files that are whole or absent: written aside, synced, renamed (promise 4)."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolov12.errors import RetryableError

PARTIAL = ".partial-"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A scratch folder beside the final files; what is in it when the block ends well replaces its namesakes in `folder`.

    Each file is replaced by one rename after its bytes are on disk. If the block fails nothing in `folder` changes.

    Raises:
        RetryableError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left_behind in folder.glob(f"{PARTIAL}*"):  # by a process that was killed while it saved
        shutil.rmtree(left_behind, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))
    try:
        yield scratch
        written = sorted(scratch.iterdir())
        for file in written:
            _sync(file)
        for file in written:
            os.replace(file, folder / file.name)
        _sync(folder)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise RetryableError(
                f"no space left to save a checkpoint in {folder} ({error.strerror}); what was saved before is intact: free some space and resume"
            ) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
