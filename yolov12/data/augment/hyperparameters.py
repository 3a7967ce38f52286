# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the augmentation is told, under ultralytics' names, and when its CPU path must be taken instead."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Hyperparameters:
    """Training arguments of ultralytics (cfg/default.yaml:115), and the size that comes out."""

    imgsz: int
    """Pixels of a side of the square that is rendered; sources have it as their long side."""
    mosaic: float = 0.0
    """Probability that a picture becomes one of four; so are `mixup` and `cutmix`, `flipud`, `fliplr` and `bgr`."""
    mixup: float = 0.0
    cutmix: float = 0.0
    copy_paste: float = 0.0
    """Kept for the record: it copies outlines, and where there are none it does nothing (augment.py:1982)."""
    degrees: float = 0.0
    """Rotation, +-, about the middle."""
    translate: float = 0.0
    """Shift, +-, as a fraction of the output."""
    scale: float | tuple[float, float] = 0.0
    """Gain: 1 +- a number, or its least and greatest value."""
    shear: float = 0.0
    """Degrees, +-, of each axis."""
    perspective: float = 0.0
    """+-, of both entries in the last row of the matrix."""
    flipud: float = 0.0
    fliplr: float = 0.0
    bgr: float = 0.0
    """Probability that the channels stay blue, green, red."""
    hsv_h: float = 0.0
    """Hue, +-, as a fraction of the circle."""
    hsv_s: float = 0.0
    """Saturation, times 1 +- this; `hsv_v` does so for brightness."""
    hsv_v: float = 0.0

    @classmethod
    def of(cls, args: Any, imgsz: int) -> Hyperparameters:
        """Those of ultralytics' `args` (a namespace).

        Raises:
            AttributeError: one is missing.
        """
        named = {field.name: getattr(args, field.name) for field in fields(cls) if field.name != "imgsz"}
        if not isinstance(named["scale"], int | float):
            low, high = named["scale"]
            named["scale"] = (float(low), float(high))
        return cls(imgsz=imgsz, **named)

    def without_mosaic(self) -> Hyperparameters:
        """As ultralytics' close_mosaic leaves them for the last epochs (data/dataset.py:389)."""
        return replace(self, mosaic=0.0, mixup=0.0, cutmix=0.0, copy_paste=0.0)

    @property
    def gains(self) -> tuple[float, float]:
        """Least and greatest gain of the affine transformation (augment.py:1156)."""
        if isinstance(self.scale, tuple):
            return self.scale
        return 1 - self.scale, 1 + self.scale

    @property
    def is_projective(self) -> bool:
        """Whether the last row of the affine transformation's matrix counts (augment.py:1209)."""
        return self.perspective != 0

    @property
    def recolours(self) -> bool:
        """Whether pixels go to HSV and back, which alone changes them a little (augment.py:1514)."""
        return bool(self.hsv_h or self.hsv_s or self.hsv_v)


def has_albumentations() -> bool:
    """Whether the package is there, whose transforms ultralytics then adds without being asked (augment.py:2128)."""
    return importlib.util.find_spec("albumentations") is not None


def why_not(args: Any, task: str, has_segments: bool, custom_transforms: bool) -> str | None:
    """Why ultralytics' own transforms must be used, in words for the log; None if these functions do the same.

    Args:
        args: ultralytics' training arguments.
        task: detect, segment, ...
        has_segments: the labels have outlines, from which ultralytics computes boxes anew after each warp.
        custom_transforms: the data set's transforms were changed, by a subclass or a callback.
    """
    if task != "detect":
        return f"task={task}: masks, keypoints and rotated boxes are augmented on the CPU"
    if has_segments:
        return "the labels have outlines, from which boxes are computed anew after each warp"
    if custom_transforms:
        return "the data set's transforms were changed by a script"
    if getattr(args, "augmentations", None):
        return "augmentations= names transforms that run on the CPU"
    if has_albumentations():
        return "albumentations is installed, and ultralytics then adds its blur, grey and CLAHE to 1 % of the pictures each"
    if getattr(args, "rect", False):
        return "rect=True trains on oblong batches"
    return None
