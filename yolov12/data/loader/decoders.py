# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who decodes JPEGs, and one function around a decoder on the GPU that lives with files that it refuses.

Such a decoder is a function from a list of files' bytes to a list of pictures, (height, width, 3) uint8 BGR on its device, not turned by EXIF. What
it returns may be written anew by its next call. It raises RuntimeError for the whole list if one file is not to its taste, since the libraries do.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Decoder = Callable[[Sequence[bytes]], list[Tensor]]

ENOUGH_READERS = 5
"""From so many on they decode: OpenCV's pixels are ultralytics' own, and the GPU is left to training.

Images a second by OpenCV and by DALI: 997 and 1,802 with four readers (records train_e2e-reduced and -reduced-2 of 2026-11-30, where
stock too took in 213 and 313), 1,928 and 1,854 with eight (log train_e2e_eight_cores). Between four and eight was not measured.
"""


def choose(device: torch.device, readers: int) -> tuple[Decoder | None, str]:
    """(the decoder on `device`, what it is or why there is none); without one whoever reads decodes.

    torchvision's nvJPEG is not among them: beside a training it ended in an illegal memory access (docs/data.md).

    Args:
        device: that trains.
        readers: processes or threads that read, on this rank.
    """
    if device.type != "cuda":
        return None, "OpenCV, as it should be on the CPU"
    if readers >= ENOUGH_READERS:
        return None, f"OpenCV: {readers} readers decode (from {ENOUGH_READERS} on)"
    if not is_installed():
        return None, "OpenCV: NVIDIA DALI is not installed"
    try:
        from yolov12.data.loader.dali import Dali

        decoder = Dali(device)
        decoder([_grey()])  # where it does not work, each file would be blamed for it
        return decoder, f"NVIDIA DALI on the GPU, for {readers} readers would be few"
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"OpenCV: NVIDIA DALI does not work here ({_one_line(error)})"


def is_installed() -> bool:
    """Whether NVIDIA DALI is there, which decodes on the GPU; `choose` finds out whether it works."""
    try:
        return importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even its package `nvidia`
        return False


def decode(decoder: Decoder, files: Sequence[bytes]) -> tuple[list[Tensor | None], dict[int, str]]:
    """The pictures of `files` in order, and for those that the decoder refuses None and the reason, by position.

    Out of memory is not the file's fault and is raised as it is.
    """
    try:
        return list(decoder(files)), {}
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if len(files) == 1:
            return [None], {0: _one_line(error)}
    # The libraries do not say which file it was. Halving finds a few bad ones in a few calls.
    half = len(files) // 2
    first, first_reasons = decode(decoder, files[:half])
    # The second half's call writes where the first half's pictures are.
    first = [None if image is None else image.clone() for image in first]
    second, second_reasons = decode(decoder, files[half:])
    return first + second, first_reasons | {half + place: reason for place, reason in second_reasons.items()}


def _grey() -> bytes:
    """A JPEG of 16 x 16 pixels."""
    import cv2
    import numpy as np

    return cv2.imencode(".jpg", np.full((16, 16, 3), 114, np.uint8))[1].tobytes()


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
