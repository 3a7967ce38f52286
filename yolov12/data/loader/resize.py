# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures resized as ultralytics does when it loads them (data/base.py:276): the long side becomes `imgsz`, bilinear, without antialiasing."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def fitted(height: int, width: int, imgsz: int) -> tuple[int, int]:
    """(height, width) in pixels of a picture once its long side is `imgsz`; the short side is rounded up."""
    ratio = imgsz / max(height, width)
    if ratio == 1:
        return height, width
    return min(math.ceil(height * ratio), imgsz), min(math.ceil(width * ratio), imgsz)


def fit_array(image: np.ndarray, imgsz: int) -> np.ndarray:
    """A picture (height, width, 3) uint8 whose long side is `imgsz`, by OpenCV; the very pixels of ultralytics."""
    height, width = fitted(image.shape[0], image.shape[1], imgsz)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def fit_tensor(images: Tensor, imgsz: int) -> Tensor:
    """The same for a stack (n, height, width, 3) uint8 on any device, within 2 grey levels of OpenCV, which computes in fixed point."""
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
