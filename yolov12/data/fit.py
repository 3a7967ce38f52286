# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures resized as ultralytics does when it loads them (data/base.py:276): the long side becomes `imgsz`, bilinear, without antialiasing."""

from __future__ import annotations

import math

import cv2
import numpy as np


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
