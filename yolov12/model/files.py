# SPDX-License-Identifier: AGPL-3.0-or-later
"""One file that is whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from yolov12.errors import RetryableError, UserError
from yolov12.folders import FULL


@contextmanager
def written_aside(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends well, by one rename after its bytes are on disk; else nothing remains of it.

    Raises:
        RetryableError: the disk is full.
        UserError: the folder can not be written to.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise RetryableError(
                f"{path.parent}: {error.strerror}: make room and run the same command again"
            ) from error
        if error.filename == str(part):
            raise UserError(f"can not write {path}: {(error.strerror or str(error)).lower()}") from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
