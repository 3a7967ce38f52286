# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures on their way to a GPU: gathered in page-locked memory that is used again and again, and sent in one copy that nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from yolov12.log import say_once
from yolov12.memory.failure import one_line


class Staging:
    """The way to one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._room = torch.empty(0, dtype=torch.uint8)
        self._is_sent: torch.cuda.Event | None = None

    def send(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """(n, height, width, channels) uint8 on the device, of pictures (height, width, channels) uint8 of one size."""
        shape = pictures[0].shape
        return self._sent(pictures, [shape] * len(pictures)).view(len(pictures), *shape)

    def send_apart(self, pictures: Sequence[np.ndarray]) -> list[Tensor]:
        """Pictures (height, width, channels) uint8 of any sizes on the device, still in one copy."""
        sent = self._sent(pictures, [picture.shape for picture in pictures])
        parts = sent.split([picture.size for picture in pictures])
        return [part.view(picture.shape) for part, picture in zip(parts, pictures, strict=True)]

    def _sent(self, pictures: Sequence[np.ndarray], shapes: Sequence[tuple[int, ...]]) -> Tensor:
        """One picture after the other, of these shapes."""
        bytes_needed = sum(prod(shape) for shape in shapes)
        if self._is_sent is not None:
            self._is_sent.synchronize()  # what was sent last has long arrived, unless nobody took its answer
        if self._room.numel() < bytes_needed:
            self._room = torch.empty(bytes_needed, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        staged, begin = self._room[:bytes_needed], 0
        room = staged.numpy()
        for picture, shape in zip(pictures, shapes, strict=True):
            end = begin + prod(shape)
            room[begin:end].reshape(shape)[...] = picture
            begin = end
        sent = staged.to(self.device, non_blocking=True, copy=True)
        if self.device.type == "cuda":
            self._is_sent = self._is_sent or torch.cuda.Event()
            self._is_sent.record(torch.cuda.current_stream(self.device))
        return sent


def gathered(pictures: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """(n, height, width, channels) uint8 on the host, ready to be sent, of pictures (height, width, channels) uint8 of one size. Any thread may.

    Each has memory of its own. torch keeps page-locked memory that was let go of, and gives it away again once no copy reads it any more. Ordinary
    memory, from which a copy is waited for, does where there is no other to be had.
    """
    shape = (len(pictures), *pictures[0].shape)
    try:
        made = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    except RuntimeError as error:
        say_once(
            "no page-locked memory",
            f"predict: no page-locked memory for pictures: {one_line(error)}; uploads are waited for",
        )
        made = torch.empty(shape, dtype=torch.uint8)
    for place, picture in zip(made.numpy(), pictures, strict=True):
        place[...] = picture
    return made


def normalised(pictures: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, channels, height, width) from 0 to 1, of pictures (n, height, width, channels) uint8; three channels are BGR and become RGB.

    The numbers of ultralytics' `preprocess` (engine/predictor.py:196) in fewer passes over them.
    """
    if pictures.shape[-1] == 3:
        pictures = pictures.flip(-1)
    count, height, width, channels = pictures.shape
    made = torch.empty((count, channels, height, width), dtype=dtype, device=pictures.device)
    return made.copy_(pictures.permute(0, 3, 1, 2)).div_(255)
