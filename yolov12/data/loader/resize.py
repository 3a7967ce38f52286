# SPDX-License-Identifier: AGPL-3.0-or-later
"""Decoded pictures as tensors, resized as ultralytics does it (data/fit.py), and turned as their EXIF asks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from yolov12.data.fit import fitted


def fit_tensor(images: Tensor, imgsz: int) -> Tensor:
    """`fit_array` for a stack (n, height, width, 3) uint8 on any device, within 2 grey levels of OpenCV, which computes in fixed point."""
    size = fitted(images.shape[1], images.shape[2], imgsz)
    if size == tuple(images.shape[1:3]):
        return images
    planes = images.permute(0, 3, 1, 2).float()  # still pixel by pixel in memory
    resized = functional.interpolate(planes, size=size, mode="bilinear", align_corners=False, antialias=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def upright(images: Tensor, orientation: int) -> Tensor:
    """Decoded pictures (..., height, width, 3) turned and mirrored as an EXIF orientation (1 to 8) asks; OpenCV does so itself."""
    if orientation in (5, 6, 7, 8):
        images = images.transpose(-3, -2)
    flipped = {2: (-2,), 3: (-3, -2), 4: (-3,), 6: (-2,), 7: (-3, -2), 8: (-3,)}.get(orientation)
    return images.flip(flipped) if flipped else images
