# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plain path: a file decoded on the CPU by ultralytics' own reader, whatever its format."""

from __future__ import annotations

import cv2
import numpy as np

from yolov12.data import pictures


class UnreadableError(Exception):
    """A picture that can not be used; says why, without its path."""


def decode(path: str) -> np.ndarray:
    """The picture in `path`, (height, width, 3) uint8 BGR, upright.

    By ultralytics' `imread` (utils/patches.py:22): grey pictures get three channels, CMYK becomes BGR, 16 bits a sample become 8.

    Raises:
        UnreadableError: the file is gone, is no picture, or is damaged so that nothing can be decoded.
    """
    from ultralytics.utils.patches import imread

    try:
        image = imread(path, flags=cv2.IMREAD_COLOR)
    except (cv2.error, OSError, ValueError, MemoryError) as error:
        raise UnreadableError((str(error).splitlines() or [type(error).__name__])[0]) from error
    if image is None:
        raise UnreadableError(_why(path))
    if image.shape[2] != 3:  # a TIFF with two channels
        raise UnreadableError(f"it has {image.shape[2]} channels")
    return image


def read(path: str) -> bytes:
    """All bytes of a file.

    Raises:
        UnreadableError: it is gone or can not be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnreadableError((error.strerror or str(error)).lower()) from error


def _why(path: str) -> str:
    """In the words of `yolov12 data check`, where it knows some."""
    verdict, why = pictures.damage(path)
    return why if verdict == "skip" else "it can not be decoded"
