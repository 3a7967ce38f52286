# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the steps on pixels share: how numbers get to the device without a wait, and how many images are worked on at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

CHANNELS = 3
EMPTY = 114
"""Grey level of what no picture covers."""
PIXELS_AT_ONCE = {"cuda": 2**22, "cpu": 2**17}
"""Bounds the temporaries, some 200 bytes a pixel: 800 MiB on a GPU, where fewer would be launches only, and what a cache may hold on a CPU."""


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """A tensor of `values` on the device. On a GPU the copy is queued from pinned memory, and the host goes on."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a GPU the current one, on which Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def chunks(images: int, size: int, device: torch.device) -> Iterator[slice]:
    """Slices of `images` pictures of `size` x `size` that are worked on together."""
    step = max(PIXELS_AT_ONCE.get(device.type, PIXELS_AT_ONCE["cpu"]) // size**2, 1)
    for start in range(0, images, step):
        yield slice(start, min(start + step, images))
