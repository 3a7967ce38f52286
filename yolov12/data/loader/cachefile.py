# SPDX-License-Identifier: AGPL-3.0-or-later
"""A data set's pictures, decoded and resized, in one file that is mapped into memory: all processes of a machine share one copy of its pages.

Layout: one line that names the format; one line of JSON, `{"key": ..., "count": n}`; zeros up to a multiple of 64 bytes; a table of n rows of five
little-endian int64 (offset in the pixels, height, width, original height, original width), all zero for a picture that could not be decoded; then
the pixels, uint8 BGR, row by row. The key is a digest of every picture's path, size and time of change, and of `imgsz`: a data set that changed is
decoded anew. Nothing in the file is code, and a file that is not whole is not used.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from yolov12.errors import ExitError
from yolov12.wholefile import replacing

FORMAT = b"yolov12 decoded pictures 1\n"
ALIGNMENT = 64
SPARE = 1.05
"""Room asked for beyond the pixels, so that a run can still save its checkpoints."""

Keep = Callable[[int, np.ndarray, tuple[int, int]], None]
"""Takes the index of a picture, the resized picture, and its (height, width) before."""
DecodeAll = Callable[[Keep], None]
"""Hands every picture that can be decoded to the function that it is given, once, in any order."""


@dataclass(frozen=True)
class Picture:
    """One picture of a cache."""

    image: np.ndarray
    """(height, width, 3) uint8 BGR, a view of the file: do not write to it."""
    original: tuple[int, int]
    """(height, width) before resizing."""


class CacheFile:
    """A cache that is whole, mapped for reading."""

    def __init__(self, file: Path, key: str) -> None:
        """Map `file`.

        Raises:
            ValueError: it is no cache of this format and key, or not all of it is there.
            OSError: it is not there or can not be read.
        """
        with file.open("rb") as stream:
            if stream.readline(len(FORMAT) + 1) != FORMAT:
                raise ValueError("not a cache of this version")
            about = json.loads(stream.readline(4096))
            if not isinstance(about, dict) or about.get("key") != key:
                raise ValueError("of other pictures")
            start = _aligned(stream.tell())
        size, count = file.stat().st_size, int(about["count"])
        if size < start + 40 * count:
            raise ValueError("cut off")
        self.table = np.memmap(file, dtype="<i8", mode="r", offset=start, shape=(count, 5))
        begins = start + 40 * count
        wanted = int((self.table[:, 0] + 3 * self.table[:, 1] * self.table[:, 2]).max(initial=0))
        if size != begins + wanted:
            raise ValueError("cut off")
        self.pixels = np.memmap(file, dtype=np.uint8, mode="r", offset=begins, shape=(wanted,))

    def picture(self, index: int) -> Picture | None:
        """Picture `index`; None if it could not be decoded when the cache was made."""
        offset, height, width, original_height, original_width = self.table[index].tolist()
        if not height:
            return None
        image = self.pixels[offset : offset + 3 * height * width].reshape(height, width, 3)
        return Picture(image, (original_height, original_width))


def key_of(files: Sequence[str], imgsz: int) -> str:
    """A digest that changes with any picture's path, size or time of change; one that is gone counts as empty."""
    digest = hashlib.sha256(f"{imgsz}\n".encode())
    for file in files:
        try:
            found = os.stat(file)
            digest.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{file}\0gone\n".encode())
    return digest.hexdigest()[:32]


def place(folder: Path, files: Sequence[str], imgsz: int) -> Path:
    """Where the cache of these pictures lies in `folder`: one file for a list of paths and an image size, whatever the pictures hold."""
    names = hashlib.sha256("\n".join(files).encode()).hexdigest()[:16]
    return folder / f"{names}-{imgsz}.u8"


def opened(
    folder: Path, files: Sequence[str], imgsz: int, needed_bytes: int, decode_all: DecodeAll
) -> tuple[CacheFile | None, str]:
    """(the cache of these pictures, where it came from), or (None, why there is none). Made first if it is missing or out of date.

    Processes of one machine call it together: one makes the file, and the others wait for it.

    Args:
        folder: for caches; made if need be.
        files: paths of the pictures.
        imgsz: of the resized pictures.
        needed_bytes: of all of them.
        decode_all: decodes the pictures where the file is to be made.
    """
    file, key = place(folder, files, imgsz), key_of(files, imgsz)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(file.with_suffix(".lock")):
            why_made = ""
            try:
                return CacheFile(file, key), f"read from {file}"
            except FileNotFoundError:
                pass
            except (ValueError, OSError) as error:
                why_made = f", in place of one {error}"
            free = shutil.disk_usage(folder).free
            if needed_bytes * SPARE > free:
                return None, f"{folder} has {_gib(free)} free and {_gib(int(needed_bytes * SPARE))} are needed"
            _write(file, key, len(files), decode_all)
            return CacheFile(file, key), f"written to {file} ({_gib(file.stat().st_size)}{why_made})"
    except (ExitError, OSError, ValueError) as error:
        return None, f"not written ({error})"


def _write(file: Path, key: str, count: int, decode_all: DecodeAll) -> None:
    table = np.zeros((count, 5), "<i8")
    with replacing(file) as part, part.open("wb") as stream:
        stream.write(FORMAT + json.dumps({"key": key, "count": count}).encode() + b"\n")
        start = _aligned(stream.tell())
        stream.seek(start + table.nbytes)

        offset = 0

        def keep(index: int, image: np.ndarray, original: tuple[int, int]) -> None:
            nonlocal offset
            table[index] = offset, *image.shape[:2], *original
            stream.write(np.ascontiguousarray(image).data)
            offset += image.nbytes

        decode_all(keep)
        stream.seek(start)
        stream.write(table.data)


@contextmanager
def _alone(lock: Path) -> Iterator[BinaryIO]:
    """Within it, no other process of this machine is in a block with the same lock."""
    with lock.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
