# SPDX-License-Identifier: AGPL-3.0-or-later
"""A process that reads pictures for another one (loader/processes.py): it decodes and resizes them into memory that both have.

    python -m yolov12.data.reader DESCRIPTOR PLACE_BYTES IMGSZ

DESCRIPTOR is an open file of the shared memory, cut into places of PLACE_BYTES. Requests come on standard input, several at a time, and their
answers go to standard output together; the end of the input ends the process, so that it never outlives its parent. It imports neither torch nor
ultralytics, which would take seconds: whatever is not plainly decoded by OpenCV is answered with a height of 0, and is for its parent.
"""

from __future__ import annotations

import mmap
import os
import signal
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
"""Index of the picture, its place, bytes of its path; the path follows."""
ANSWER = struct.Struct("<IIIIII")
"""Index, place, height and width, height and width before resizing."""
LEFT_TO_OTHERS = (".tif", ".tiff", ".avif", ".heic", ".heif")
"""What ultralytics does not decode by `cv2.imdecode` alone (utils/patches.py:46)."""


def packed(requests: Sequence[tuple[int, int, str]]) -> bytes:
    """What is written for (index, place, path) of some pictures."""
    parts = [COUNT.pack(len(requests))]
    for index, place, path in requests:
        encoded = os.fsencode(path)
        parts += [REQUEST.pack(index, place, len(encoded)), encoded]
    return b"".join(parts)


def read_into(place: np.ndarray, path: str, imgsz: int) -> tuple[int, int, int, int]:
    """Decode a file into `place`; (height, width, height before resizing, width before resizing), zeros if it is not for this process.

    Args:
        place: uint8, flat, with room for 3 x imgsz x imgsz numbers; gets (height, width, 3) BGR, upright.
        path: of the file.
        imgsz: length of the long side in pixels.
    """
    if path.lower().endswith(LEFT_TO_OTHERS):
        return 0, 0, 0, 0
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, OSError, ValueError, MemoryError):
        return 0, 0, 0, 0
    if image is None or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        return 0, 0, 0, 0
    made = fit_array(image, imgsz)
    place[: made.size].reshape(made.shape)[...] = made
    return (*made.shape[:2], *image.shape[:2])


def serve(requests: BinaryIO, answers: BinaryIO, places: np.ndarray, imgsz: int) -> None:
    """Answer until the requests end, also in the middle of one. `places` is (places, bytes of one).

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
            index, place, length = REQUEST.unpack(read(REQUEST.size))
            path = os.fsdecode(read(length))
            made.append(ANSWER.pack(index, place, *read_into(places[place], path, imgsz)))
        answers.write(b"".join(made))

    with suppress(EOFError):
        while True:
            answer_some()


def main(arguments: Sequence[str]) -> None:
    """Serve standard input and output."""
    descriptor, place_bytes, imgsz = map(int, arguments)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the parent, which ends this process by ending its input
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not come between the answers
    cv2.setNumThreads(1)
    places = np.frombuffer(mmap.mmap(descriptor, 0), np.uint8).reshape(-1, place_bytes)
    with suppress(BrokenPipeError):  # the parent is gone
        serve(sys.stdin.buffer, answers, places, imgsz)


if __name__ == "__main__":
    main(sys.argv[1:])
