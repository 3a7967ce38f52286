# SPDX-License-Identifier: AGPL-3.0-or-later
"""JPEG decoders on the GPU: which one there is, and one function around them that lives with files that they refuse.

A decoder is a function from a list of files' bytes to a list of pictures, (3, height, width) uint8 RGB on its device, not turned by EXIF. It
raises RuntimeError for the whole list if one file is not to its taste, since the libraries do.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Decoder = Callable[[Sequence[bytes]], list[Tensor]]


def choose(device: torch.device) -> tuple[Decoder | None, str]:
    """(the decoder for `device`, what it is or why there is none); without one the plain path decodes."""
    if device.type != "cuda":
        return None, f"OpenCV in reading threads: no GPU decoder on {device.type}"
    why_not_dali = "not installed"
    if importlib.util.find_spec("nvidia.dali") is not None:
        try:
            from yolov12.data.loader.dali import Dali

            return Dali(device), "NVIDIA DALI, with the hardware decoder where the GPU has one"
        except (ImportError, OSError, RuntimeError) as error:
            why_not_dali = _one_line(error)
    nvjpeg = Nvjpeg(device)
    if reason := nvjpeg.why_not():
        return None, f"OpenCV in reading threads: torchvision can not decode on this GPU ({reason})"
    return nvjpeg, f"nvJPEG through torchvision (NVIDIA DALI: {why_not_dali})"


class Nvjpeg:
    """torchvision's decoder."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, files: Sequence[bytes]) -> list[Tensor]:
        from torchvision.io import ImageReadMode, decode_jpeg

        encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        return decode_jpeg(encoded, mode=ImageReadMode.RGB, device=self.device)

    def why_not(self) -> str:
        """Why it does not work here, found by decoding a picture of 16 x 16 pixels; "" if it does."""
        import cv2
        import numpy as np

        _, grey = cv2.imencode(".jpg", np.full((16, 16, 3), 114, np.uint8))
        try:
            self([grey.tobytes()])
        except (ImportError, RuntimeError) as error:
            return _one_line(error)
        return ""


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
    second, second_reasons = decode(decoder, files[half:])
    return first + second, first_reasons | {half + place: reason for place, reason in second_reasons.items()}


def _one_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
