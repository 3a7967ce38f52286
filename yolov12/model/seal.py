# SPDX-License-Identifier: AGPL-3.0-or-later
"""A checkpoint's checksum, in the comment that a zip archive may end with.

torch.save writes a zip archive, and every reader of one, torch's among them, passes over its comment: the file stays one that stock loads. A
second file with the checksum could be lost, or belong to another version of the first; a record inside the archive could not cover the rest.

    ... records, table of contents | end record, with the comment's length | "yolov12 sha256=" + 64 hexadecimal digits of all before
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

MARK = b"yolov12 sha256="
COMMENT_BYTES = len(MARK) + 2 * hashlib.sha256().digest_size
_END = struct.Struct("<4s4H2LH")
"""The end record, of which the last number is the comment's length (APPNOTE 4.3.16)."""
_LENGTH = struct.Struct("<H")
_END_MAGIC = b"PK\x05\x06"
_CHUNK_BYTES = 2**20
_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, ValueError, EOFError)
"""What zipfile ends in where an archive is not as it was written."""


def seal(path: Path) -> None:
    """Append the checksum to an archive that `torch.save` has just written.

    Raises:
        BadZipFile: it is no such archive.
        ValueError: it is sealed already.
    """
    with path.open("r+b") as file:
        size, comment = _end(file)
        if comment:
            raise ValueError(f"{path} has a comment already")
        file.seek(size - _LENGTH.size)
        file.write(_LENGTH.pack(COMMENT_BYTES))
        file.write(MARK + _digest(file, size))


def flaw(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, in words; None where they are as they were written.

    A file without our checksum, as stock writes it, is held against the CRC-32 that its archive has for each record; torch's reader does not
    look at those.
    """
    try:
        with path.open("rb") as file:
            size, comment = _end(file)
            if comment == MARK + _digest(file, size):
                return None
        if comment:
            return "its checksum does not match"
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        return f"it can not be read: {error.strerror or error}"
    except _DAMAGE as error:
        return f"it is cut off or damaged ({error})"
    return f"its record {damaged} is damaged" if damaged else None


def is_sealed(path: Path) -> bool:
    """Whether a file ends with a checksum of ours, right or wrong."""
    try:
        with path.open("rb") as file:
            return _end(file)[1].startswith(MARK)
    except (OSError, zipfile.BadZipFile):
        return False


def _end(file: BinaryIO) -> tuple[int, bytes]:
    """(bytes before the comment, comment) of an archive.

    Raises:
        BadZipFile: there is no end record, or not as much after it as it says.
    """
    size = file.seek(0, 2)
    file.seek(max(size - COMMENT_BYTES - _END.size, 0))
    tail = file.read()
    start = tail.rfind(_END_MAGIC)
    if start < 0 or len(tail) < start + _END.size:
        raise zipfile.BadZipFile("the end of the archive is missing")
    comment = tail[start + _END.size :]
    if len(comment) != _END.unpack_from(tail, start)[-1]:
        raise zipfile.BadZipFile("the end of its comment is missing")
    return size - len(comment), comment


def _digest(file: BinaryIO, size: int) -> bytes:
    """The checksum of the first `size` bytes, as text. The file is left at their end."""
    digest = hashlib.sha256()
    file.seek(0)
    left = size
    while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
        digest.update(chunk)
        left -= len(chunk)
    file.seek(size)
    return digest.hexdigest().encode()


def previous_of(path: Path) -> Path:
    """Where an unfinished run keeps the checkpoint that stood at `path` before: last.pt -> last.previous.pt."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def whole(path: Path) -> tuple[Path, str | None]:
    """The file to go on from, and why it is not `path`, if it is another.

    Raises:
        ValueError: `path` is damaged, and there is none before it that is whole; says both.
    """
    why = flaw(path)
    if why is None:
        return path, None
    previous = previous_of(path)
    if not previous.is_file():
        raise ValueError(f"{path} is damaged: {why}")
    if other := flaw(previous):
        raise ValueError(f"{path} is damaged: {why}; so is {previous}: {other}")
    return previous, f"{path} is damaged: {why}; {previous.name}, the checkpoint before it, is used instead"
