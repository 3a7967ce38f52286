# SPDX-License-Identifier: AGPL-3.0-or-later
"""Suppression by two kernels of ours (docker/kernels/suppress.h): the rows of `fixed.fixed_nms`, in pixels of the pictures if these are of one size.

Where there are no such kernels, or a head suppresses by itself, a caller takes torch's operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yolov12 import settings
from yolov12.engine.scoring.asked import Asked
from yolov12.engine.scoring.scale import Placing
from yolov12.model.fused.norm import kernels_missing

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def are_asked_for(device: torch.device) -> bool:
    """Whether these kernels are wanted (YOLOV12_PREDICT_KERNELS) and there for a device; why they are not is said where the network asks, too."""
    return settings.current().predict_kernels and device.type == "cuda" and kernels_missing(device) is None


def serve(prediction: Tensor, what: Asked) -> bool:
    """Whether the kernels take it: (images, 4 + classes, anchors) of a head that leaves suppression to others."""
    leaves_it = not what.end2end and prediction.shape[-1] != 6  # as ultralytics tells (utils/nms.py:72)
    return leaves_it and prediction.dtype in DTYPES and prediction.is_contiguous() and prediction.numel() > 0


def suppressed(prediction: Tensor, what: Asked, wanted: Tensor | None, placing: Placing | None) -> Tensor:
    """(images, most + 1, 6) as `fixed.fixed_nms` has it, in memory of its own, without waiting for the device.

    Args:
        prediction: one that the kernels `serve`.
        wanted: (n,) float32, the classes that are looked for, on the same device; None for all.
        placing: for all images; None leaves boxes in pixels of the network's input.
    """
    numbers: list[Any] = [] if placing is None else [*placing.padding, *placing.gain, *placing.limit]
    return _run(
        prediction, what.confidence, what.iou, what.max_det, what.agnostic, wanted, [float(one) for one in numbers]
    )


def _run(prediction: Tensor, *rules: Any) -> Tensor:
    return torch.ops.yolov12_kernels.suppress(prediction, *rules)
