# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the reading threads do for one picture: all that needs no GPU. File reads and OpenCV's decoders release Python's lock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolov12.data.fit import fit_array
from yolov12.data.loader import jpeg, plain
from yolov12.data.loader.cachefile import CacheFile


@dataclass(frozen=True)
class Fetched:
    """A picture on its way: decoded, or as bytes for a decoder on the GPU, or unreadable."""

    index: int
    """In the data set."""
    image: Tensor | None = None
    """(height, width, 3) uint8 BGR, resized, in host memory: pinned where it goes to a GPU."""
    original: tuple[int, int] = (0, 0)
    """(height, width) before resizing, upright; known once it is decoded."""
    encoded: bytes = b""
    """A JPEG that a GPU may decode."""
    header: jpeg.Header | None = None
    """Of `encoded`."""
    on_cpu: str = ""
    """Why the plain path decoded it although a GPU decoder is there."""
    failure: str = ""
    """Why it can not be used."""


def fetch(
    index: int, path: str, imgsz: int, on_gpu: bool, pinned: bool = False, cache: CacheFile | None = None
) -> Fetched:
    """Read picture `index`, and decode it unless a GPU decoder is to.

    Args:
        index: of the picture in the data set.
        path: of its file.
        imgsz: length of the long side in pixels.
        on_gpu: whether JPEGs of the usual kind are left to a GPU decoder.
        pinned: whether pictures are to lie in pinned memory.
        cache: of decoded pictures; what it has is neither read nor decoded.
    """
    if cache is not None and (found := cache.picture(index)) is not None:
        # A copy, made by this thread: it waits for the disk where the pages are not in memory.
        return Fetched(index, image=_copied(found.image, pinned), original=found.original)
    why_cpu = ""
    try:
        if on_gpu:
            data = plain.read(path)
            header = jpeg.read(data)
            why_cpu = jpeg.why_not_on_gpu(header)
            if not why_cpu:
                return Fetched(index, encoded=data, header=header)
        return on_the_cpu(index, path, imgsz, why_cpu, pinned)
    except plain.UnreadableError as error:
        return Fetched(index, failure=str(error))


def on_the_cpu(index: int, path: str, imgsz: int, why: str, pinned: bool = False) -> Fetched:
    """Picture `index` by the plain path, which is taken because of `why`; it never raises for a bad file, but says so."""
    try:
        image = plain.decode(path)
    except plain.UnreadableError as error:
        return Fetched(index, failure=str(error))
    height, width = image.shape[:2]
    fitted = fit_array(image, imgsz)
    kept = _copied(fitted, pinned) if pinned else torch.from_numpy(np.ascontiguousarray(fitted))
    return Fetched(index, image=kept, original=(height, width), on_cpu=why)


def _copied(image: np.ndarray, pinned: bool) -> Tensor:
    """In memory of its own. NumPy copies without Python's lock, so that the threads copy side by side."""
    copy = torch.empty(image.shape, dtype=torch.uint8, pin_memory=pinned)
    np.copyto(copy.numpy(), image)
    return copy
