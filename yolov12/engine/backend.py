# SPDX-License-Identifier: AGPL-3.0-or-later
"""A model as ultralytics loads it for validation, without what our validator has no use for."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from ultralytics.nn.autobackend import AutoBackend

from yolov12.seams import Seam

SEAMS = (Seam("nn/autobackend.py", 367, "ultralytics.nn.autobackend.AutoBackend.warmup", "7a07a0488212"),)


def load(own: Callable[..., AutoBackend], *args: Any, **kwargs: Any) -> AutoBackend:
    """What `own`, ultralytics' AutoBackend, makes of these arguments."""
    model = own(*args, **kwargs)
    if model.format == "pt":
        model.warmup = partial(warm_up, weakref.proxy(model))  # in a cycle it would keep its memory after its last use
    return model


def warm_up(model: AutoBackend, imgsz: tuple[int, ...] = (1, 3, 640, 640), im: torch.Tensor | None = None) -> None:
    """One forward on a GPU, as in nn/autobackend.py:367. That one goes on to torchvision's NMS, and imports torchvision for it."""
    if model.device.type == "cpu":
        return
    if im is None:
        im = torch.empty(*imgsz, dtype=torch.half if model.fp16 else torch.float, device=model.device)
    model.forward(im)
