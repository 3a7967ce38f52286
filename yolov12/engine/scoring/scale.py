# SPDX-License-Identifier: AGPL-3.0-or-later
"""Boxes from the pixels of a batch to those of its pictures: ultralytics' numbers (utils/ops.py:126) in fewer calls.

ultralytics moves each of the four columns by a kernel of its own, and twice fetches it for that. Here a column of x1 goes with x2, one of y1 with
y2; what would add 0 or divide by 1 is left out. What is left are the same operations with the same Python numbers: torch divides by a number
otherwise than by a tensor of it (on a GPU it multiplies by the reciprocal), so a tensor of four divisors would be another answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from yolov12.seams import Seam

SEAMS = (
    Seam("utils/ops.py", 126, "ultralytics.utils.ops.scale_boxes", "a59cea50dc94"),
    Seam("utils/ops.py", 188, "ultralytics.utils.ops.clip_boxes", "8cca425dca91"),
)

X_AND_Y = (1, 0)
"""Their places in a size, which is height before width."""


class Placing(NamedTuple):
    """From pixels of the network's input to those of a picture: (x - padding) / gain, clipped to 0 and limit. Each is (of x, of y)."""

    padding: tuple[int, int]
    gain: tuple[float, float]
    limit: tuple[int, int]


def scale(rows: Tensor, size: Sequence[int], pictures: Sequence[np.ndarray]) -> None:
    """Move boxes in place from the pixels of a batch to those of its pictures.

    Args:
        rows: (images, n, at least 4), which begin with x1, y1, x2, y2.
        size: (height, width) of the batch.
        pictures: (height, width, channels) each; all at once where they are of one size.
    """
    shapes = [picture.shape[:2] for picture in pictures]
    if len(set(shapes)) == 1:
        _scale(rows, size, shapes[0])
        return
    for boxes, shape in zip(rows, shapes, strict=True):
        _scale(boxes, size, shape)


def placing_of(size: Sequence[int], picture: Sequence[int]) -> Placing:
    """What ultralytics' `scale_boxes` does with boxes.

    Args:
        size: (height, width) of the network's input.
        picture: (height, width, ...) of the picture that was letterboxed into it.
    """
    gain = min(size[0] / picture[0], size[1] / picture[1])
    drawn = [max(round(picture[side] * gain), 1) for side in X_AND_Y]
    padding = [round((size[side] - pixels) / 2 - 0.1) for side, pixels in zip(X_AND_Y, drawn, strict=True)]
    gains = [pixels / picture[side] for side, pixels in zip(X_AND_Y, drawn, strict=True)]
    return Placing((padding[0], padding[1]), (gains[0], gains[1]), (picture[1], picture[0]))


def _scale(boxes: Tensor, size: Sequence[int], shape: Sequence[int]) -> None:
    for first, (padding, gain, limit) in enumerate(zip(*placing_of(size, shape), strict=True)):
        columns = boxes[..., first : first + 3 : 2]
        if padding:
            columns.sub_(padding)
        if gain != 1:
            columns.div_(gain)
        columns.clamp_(0, limit)
