# SPDX-License-Identifier: AGPL-3.0-or-later
"""What stands of a validation's candidates, by a kernel of ours (docker/kernels/survive.h): the answer of torch's operations in `suppression`, which
wait for the GPU at every 256 candidates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolov12 import settings
from yolov12.model.fused.norm import kernels_missing

MOST = 1024
"""That may stand in an image: more have no room in the memory that a kernel's threads share."""


def serves(boxes: Tensor, limit: int) -> bool:
    """Whether the kernel is wanted (YOLOV12_PREDICT_KERNELS), there, and has room for so many."""
    if boxes.device.type != "cuda" or limit > MOST or boxes.dtype != torch.float32:
        return False
    return settings.current().predict_kernels and kernels_missing(boxes.device) is None


def survivors(
    boxes: Tensor, ranked: Tensor, lengths: list[int], threshold: float, limit: int
) -> tuple[Tensor, list[int]]:
    """As `suppression._survivors`, whose arguments they are; waits for the GPU once it is done, however many candidates there are."""
    order = ranked.contiguous()
    kept, counts = _run(
        boxes.contiguous(), order, torch.tensor(lengths, dtype=torch.int32, device=boxes.device), threshold, limit
    )
    return kept[kept >= 0], counts.tolist()


def _run(*arguments: Any) -> tuple[Tensor, Tensor]:
    kept, counts = torch.ops.yolov12_kernels.survive(*arguments)
    return kept, counts
