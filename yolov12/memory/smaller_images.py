# SPDX-License-Identifier: AGPL-3.0-or-later
"""The last resort of a step that does not fit with one image at a time: train on smaller images (`mas_data`).

The sizes are those of multi-scale training with `multi_scale=0.5`, from below: multiples of the model's stride down to half of imgsz. A size
that fits is kept for a calm period, then full size is tried again; each time that fails the period doubles.
"""

from __future__ import annotations

import math
from typing import Any

from torch.nn import functional as F

LEAST_SHARE = 0.5
"""Of imgsz: images are not made smaller."""
CALM_STEPS = 200
"""So many steps on smaller images before full size is tried again, for the first time."""


def resized(batch: dict[str, Any], longest_px: int, stride: int) -> dict[str, Any]:
    """The batch with images whose longer side is at most `longest_px`; itself where it already is.

    Stretched bilinearly to multiples of the stride as multi-scale training does (ultralytics models/yolo/detect/train.py:130). Boxes are
    relative to the image and stay.

    Args:
        batch: with `img` of shape (images, 3, height, width), floating point.
        longest_px: a multiple of the stride.
        stride: of the model's coarsest level.
    """
    height, width = batch["img"].shape[2:]
    size = size_within(height, width, longest_px, stride)
    if size == (height, width):
        return batch
    return {**batch, "img": F.interpolate(batch["img"], size=size, mode="bilinear", align_corners=False)}


def size_within(height: int, width: int, longest_px: int, stride: int) -> tuple[int, int]:
    """(height, width) that `resized` gives."""
    longest = max(height, width)
    if longest <= longest_px:
        return height, width
    tall, wide = (math.ceil(side * longest_px / longest / stride) * stride for side in (height, width))
    return tall, wide


class SmallerImages:
    """How large the images of one process's steps may be. Nothing here communicates: ranks may differ.

    Args:
        imgsz: that the run asked for, in pixels.
        stride: of the model's coarsest level.
    """

    def __init__(self, imgsz: int, stride: int) -> None:
        self.stride = stride
        # Two strides at least: batch norm needs more than one value of a single image (ultralytics engine/trainer.py:309).
        self.least_px = max(math.ceil(LEAST_SHARE * imgsz / stride), 2) * stride
        self.longest_px: int | None = None
        """Of the longer side; None: as it comes."""
        self._fitted_px: int | None = None
        """The size that fitted last: where full size fails again, it is taken at once."""
        self._calm_steps = 0
        self._patience = CALM_STEPS

    def of(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch at the size that is allowed now."""
        return batch if self.longest_px is None else resized(batch, self.longest_px, self.stride)

    def shape_of(self, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Of (images, channels, height, width) what a step computes with."""
        if self.longest_px is None:
            return shape
        return (*shape[:2], *size_within(*shape[2:], self.longest_px, self.stride))

    def lower(self, batch: dict[str, Any]) -> str | None:
        """After running out of memory on this batch, as the loader made it: allow one stride less, as `old -> new`; None at the end."""
        longest = max(batch["img"].shape[2:])
        tried = longest if self.longest_px is None else min(longest, self.longest_px)
        smaller = (math.ceil(tried / self.stride) - 1) * self.stride
        if self.longest_px is None and self._fitted_px is not None:
            self._patience *= 2
            smaller = min(smaller, self._fitted_px)
        if smaller < self.least_px:
            return None
        self.longest_px, self._calm_steps = smaller, 0
        return f"image size {tried} -> {smaller}"

    def step_done(self) -> str | None:
        """Count a step that fitted. After a calm period full size is allowed again, and said as `old -> new`."""
        if self.longest_px is None:
            return None
        self._fitted_px = self.longest_px
        self._calm_steps += 1
        if self._calm_steps < self._patience:
            return None
        self.longest_px = None
        return f"image size {self._fitted_px} -> full"
