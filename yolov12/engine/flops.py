# SPDX-License-Identifier: AGPL-3.0-or-later
"""The count of a model's operations, taken on the CPU: it depends on shapes alone, and on a GPU its tiny pictures prepare kernels for nothing."""

from __future__ import annotations

import copy
from typing import Any

import torch
import ultralytics.utils.torch_utils as upstream
from torch import nn
from ultralytics.nn.tasks import BaseModel

from yolov12.seams import Seam

SEAMS = (Seam("utils/torch_utils.py", 632, "ultralytics.utils.torch_utils.get_flops", "280ec9fb768c"),)

_own = upstream.get_flops


def on_cpu(model: nn.Module, imgsz: Any = 640) -> float:
    """The GFLOPs that ultralytics' `get_flops` counts, from a copy without the weights' values."""
    bare = upstream.unwrap_model(model)
    if not isinstance(bare, BaseModel) or next(bare.parameters()).device.type == "cpu":
        return _own(model, imgsz)
    memo: dict[int, object] = {}
    for parameter in bare.parameters():
        memo[id(parameter)] = nn.Parameter(torch.zeros_like(parameter, device="cpu"), parameter.requires_grad)
    for buffer in bare.buffers():
        memo[id(buffer)] = torch.zeros_like(buffer, device="cpu")
    # What is left are the anchors of the head, which are no buffers.
    return _own(copy.deepcopy(bare, memo).cpu(), imgsz)
