# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finding a split's pictures, and telling damaged ones by their first and last bytes.

A picture is decoded here only if its ends look wrong: the whole set is decoded often enough later. What is reported matches what
ultralytics does when it scans (`check_image`, data/utils.py:223-249 of 8.4.190): a JPEG that can not be decoded is left out of the run, and one
that merely lacks its end mark is written anew, in place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from yolov12.errors import UserError

FORMATS = frozenset(["avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"])
"""File endings that ultralytics takes for pictures (data/utils.py:34-48)."""

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xae\x42\x60\x82"
_WITH_MARKS = (".jpg", ".jpeg", ".png")


def listed(places: list[Path]) -> list[str]:
    """The pictures of a split, sorted: all below a folder, or those that a text file lists (`get_img_files`, data/base.py:188-228 of 8.4.190).

    In a list, a path that starts with `./` starts from the list's folder, any other from the current one.
    """
    found: list[str] = []
    for place in places:
        if place.is_dir():
            found.extend(_below(place))
        else:
            found.extend(_in_list(place))
    return sorted(path for path in found if path.rpartition(".")[-1].lower() in FORMATS)


def damage(path: str) -> tuple[str, str]:
    """What a scan will do about the picture at `path`, and why: "keep" it, "skip" it, or "rewrite" it.

    Raises nothing: a file that can not be read is damaged too.
    """
    try:
        size = os.path.getsize(path)
        if size == 0:
            return "skip", "empty file"
        if not path.lower().endswith(_WITH_MARKS):
            return "keep", "only JPEG and PNG have an end mark to look for"
        with open(path, "rb") as file:
            start = file.read(4)
            file.seek(-min(size, 8), os.SEEK_END)
            end = file.read(8)
    except OSError as error:
        return "skip", f"can not be read: {error.strerror}"
    if start.startswith(_JPEG_START) and end.endswith(_JPEG_END):
        return "keep", "whole JPEG"
    if start == _PNG_START and end == _PNG_END:
        return "keep", "whole PNG"
    return _decode(path)


def _decode(path: str) -> tuple[str, str]:
    """The same answer from the decoder."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            is_jpeg = picture.format == "JPEG"
            picture.verify()
        if is_jpeg:
            with Image.open(path) as picture:  # verify leaves a picture unusable
                picture.load()
    # What Pillow's readers raise on broken files.
    except (OSError, SyntaxError, ValueError, IndexError, EOFError, Image.DecompressionBombError) as error:
        return "skip", f"{error}".replace(f" {path!r}", "")
    return ("rewrite", "a JPEG without its end mark") if is_jpeg else ("keep", "decodes")


def _below(folder: Path) -> Iterator[str]:
    """Files below `folder` as glob's `**/*.*` finds them: links are followed, hidden names are not."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (os.path.join(parent, name) for name in files if not name.startswith("."))


def _in_list(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is neither a folder nor a readable list of pictures: {error}") from error
    return [line.replace("./", f"{file.parent}{os.sep}", 1) if line.startswith("./") else line for line in lines]
