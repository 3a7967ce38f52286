# SPDX-License-Identifier: AGPL-3.0-or-later
"""Finding a split's pictures, and telling damaged ones by their first and last bytes.

A picture is decoded here only if its ends look wrong: the whole set is decoded often enough later. What is reported matches what
ultralytics does when it scans (`check_image`, data/utils.py:256-282 of 8.4.190): a JPEG that can not be decoded is left out of the run, and one
that merely lacks its end mark is written anew, in place.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolov12.errors import UserError

FORMATS = frozenset(["avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"])
"""File endings that ultralytics takes for pictures (data/utils.py:38-52)."""

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND\xae\x42\x60\x82"
_HEIC_MARK = b"ftyp"
"""From byte 4 on; phones write such files, and copies of them are often called .jpg."""
_NO_READER = "for which the Python package pi-heif is missing: save it as JPEG"
_WITH_MARKS = (".jpg", ".jpeg", ".png")


def listed(places: list[Path]) -> list[str]:
    """The pictures of a split, sorted: all below a folder, or those that a text file lists (`get_img_files`, data/base.py:189-227 of 8.4.190).

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
            start = file.read(12)
            file.seek(-min(size, 8), os.SEEK_END)
            end = file.read(8)
    except OSError as error:
        return "skip", f"can not be read: {error.strerror}"
    if start.startswith(_JPEG_START) and end.endswith(_JPEG_END):
        return "keep", "whole JPEG"
    if start.startswith(_PNG_START) and end == _PNG_END:
        return "keep", "whole PNG"
    return _decode(path, start)


def _decode(path: str, start: bytes) -> tuple[str, str]:
    """The same answer from Pillow's decoders.

    They are called by name, since ultralytics replaces `PIL.Image.open` by a function that may install a package when it does not know a file.
    """
    from PIL import Image, JpegImagePlugin, PngImagePlugin

    if start.startswith(_JPEG_START):
        decoder: Any = JpegImagePlugin.jpeg_factory
    elif start.startswith(_PNG_START):
        decoder = PngImagePlugin.PngImageFile
    else:
        return _other_content(path, start)
    try:
        with open(path, "rb") as file:
            decoder(file, path).verify()
        with open(path, "rb") as file:  # verify leaves a picture unusable
            picture = decoder(file, path)
            if picture.format == "JPEG":
                picture.load()
    # What Pillow's readers raise on broken files.
    except (OSError, SyntaxError, ValueError, IndexError, EOFError, Image.DecompressionBombError) as error:
        return "skip", str(error)
    return ("rewrite", "a JPEG without its end mark") if picture.format == "JPEG" else ("keep", "decodes")


def _other_content(path: str, start: bytes) -> tuple[str, str]:
    """A file that is called JPEG or PNG and is neither: perhaps another kind of picture, which then is read all the same."""
    import cv2

    if cv2.haveImageReader(path):
        return "keep", "another kind of picture"
    if start[4:8] != _HEIC_MARK:
        return "skip", "not a picture"
    if importlib.util.find_spec("pi_heif") is None:
        return "skip", f"a HEIC picture under another name, {_NO_READER}"
    return "keep", "a HEIC picture"


def why_unidentified(path: str) -> str:
    """Why Pillow can not identify a picture (its UnidentifiedImageError), where `pi-heif` is not installed."""
    with open(path, "rb") as file:
        start = file.read(12)
    return f"a HEIC picture, {_NO_READER}" if start[4:8] == _HEIC_MARK else "not a picture that Pillow knows"


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
