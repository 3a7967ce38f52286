# SPDX-License-Identifier: AGPL-3.0-or-later
"""A picture of any size into the model's input and boxes back, to the pixel as upstream does it (ultralytics/data/augment.py, LetterBox;
utils/ops.py, scale_boxes): otherwise an exported model finds other boxes than its source."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

GREY = (114, 114, 114)


@dataclass(frozen=True)
class Fit:
    """How a picture lies in the model's input. All in pixels; `inner` is the picture's size in there."""

    height: int
    width: int
    inner_height: int
    inner_width: int
    top: int
    left: int

    def to_picture(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) x1, y1, x2, y2 in pixels of the input -> in pixels of the picture, cut at its edges."""
        # Each side was rounded to whole pixels, so the two scales differ a little.
        scale = np.float32([self.inner_width / self.width, self.inner_height / self.height] * 2)
        boxes = (boxes - np.float32([self.left, self.top] * 2)) / scale
        return boxes.clip(0, np.float32([self.width, self.height] * 2))


def fit(height: int, width: int, input_height: int, input_width: int) -> Fit:
    """The largest size that fits without changing the proportions, in the middle."""
    scale = min(input_height / height, input_width / width)
    inner_height, inner_width = max(round(height * scale), 1), max(round(width * scale), 1)
    # Of an odd number of grey lines, the odd one is at the bottom or on the right.
    top, left = round((input_height - inner_height) / 2 - 0.1), round((input_width - inner_width) / 2 - 0.1)
    return Fit(height, width, inner_height, inner_width, top, left)


def letterbox(picture: np.ndarray, input_height: int, input_width: int) -> tuple[np.ndarray, Fit]:
    """BGR picture (height, width, 3) uint8 -> (1, 3, input_height, input_width) float32 RGB in 0..1, and how it lies there."""
    place = fit(*picture.shape[:2], input_height, input_width)
    if (place.inner_height, place.inner_width) != picture.shape[:2]:
        picture = cv2.resize(picture, (place.inner_width, place.inner_height), interpolation=cv2.INTER_LINEAR)
    bottom = input_height - place.inner_height - place.top
    right = input_width - place.inner_width - place.left
    picture = cv2.copyMakeBorder(picture, place.top, bottom, place.left, right, cv2.BORDER_CONSTANT, value=GREY)
    channels_first = picture[..., ::-1].transpose(2, 0, 1)[None]
    return np.ascontiguousarray(channels_first, dtype=np.float32) / np.float32(255), place
