# SPDX-License-Identifier: AGPL-3.0-or-later
"""A process that reads pictures for another one (loader/reader_pool.py): it decodes and resizes them into memory that both have.

Its arguments are the descriptor of an open file with the shared memory, the bytes of one slot of it, and `imgsz`. Requests come on standard input,
several at a time, and their answers go to standard output together; the end of the input ends the process, so that it does not outlive its
parent. It imports neither torch nor ultralytics, which would take seconds: whatever is not plainly decoded by OpenCV is answered with a
height of 0, and is for its parent.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

import cv2
import numpy as np

from yolov12.data.fit import fit_array

COUNT = struct.Struct("<I")
"""Requests that follow."""
REQUEST = struct.Struct("<III")
"""Index of the picture, its slot, bytes of its path; the path follows."""
ANSWER = struct.Struct("<IIIIII")
"""Index, slot, height and width, height and width before resizing."""
REFUSED = (0, 0, 0, 0)
"""In place of the sizes: the picture is for the parent."""
LEFT_TO_OTHERS = (".tif", ".tiff", ".avif", ".heic", ".heif")
"""What ultralytics does not decode by `cv2.imdecode` alone (utils/patches.py:46)."""


def packed(requests: Sequence[tuple[int, int, str]]) -> bytes:
    """What is written for (index, slot, path) of some pictures."""
    parts = [COUNT.pack(len(requests))]
    for index, slot, path in requests:
        encoded = os.fsencode(path)
        parts += [REQUEST.pack(index, slot, len(encoded)), encoded]
    return b"".join(parts)


def read_into(slot: np.ndarray, path: str, imgsz: int) -> tuple[int, int, int, int]:
    """Decode a file into `slot`; (height, width, height before resizing, width before resizing), zeros if it is not for this process.

    Args:
        slot: uint8, flat, with room for 3 x imgsz x imgsz numbers; gets (height, width, 3) BGR, upright.
        path: of the file.
        imgsz: length of the long side in pixels.
    """
    if path.lower().endswith(LEFT_TO_OTHERS):
        return REFUSED
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, OSError, ValueError, MemoryError):
        return REFUSED
    if image is None or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        return REFUSED
    made = fit_array(image, imgsz)
    slot[: made.size].reshape(made.shape)[...] = made
    return (*made.shape[:2], *image.shape[:2])


def serve(requests: BinaryIO, answers: BinaryIO, slots: np.ndarray, imgsz: int) -> None:
    """Answer until the requests end, also in the middle of one. `slots` is (slots, bytes of one).

    Raises:
        BrokenPipeError: nobody reads the answers.
    """

    def read(size: int) -> bytes:
        data = requests.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def answer_some() -> None:
        made = []
        for _ in range(*COUNT.unpack(read(COUNT.size))):
            index, slot, length = REQUEST.unpack(read(REQUEST.size))
            path = os.fsdecode(read(length))
            made.append(ANSWER.pack(index, slot, *read_into(slots[slot], path, imgsz)))
        answers.write(b"".join(made))

    with suppress(EOFError):
        while True:
            answer_some()


def main(arguments: Sequence[str]) -> None:
    """Serve standard input and output: the whole process."""
    descriptor, slot_bytes, imgsz = map(int, arguments)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not come between the answers
    cv2.setNumThreads(1)
    slots = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8).reshape(-1, slot_bytes)
    with suppress(BrokenPipeError):  # the parent is gone
        serve(sys.stdin.buffer, answers, slots, imgsz)
