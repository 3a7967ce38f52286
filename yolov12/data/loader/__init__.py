# SPDX-License-Identifier: AGPL-3.0-or-later
"""A loader that makes whole batches ahead of the training loop: processes or threads read, the GPU decodes where few do, tensors are augmented.

`build.obstacle` says whether a data set can go through it, `build.build` makes it. The augmentation itself is yolov12.data.augment.
"""

from __future__ import annotations

from yolov12.data.loader.build import AUGMENTATIONS, RECT, Obstacle, build, bytes_of_all, obstacle, readers
from yolov12.data.loader.decoders import is_installed as gpu_decodes
from yolov12.data.loader.loader import PictureLoader

__all__ = [
    "AUGMENTATIONS",
    "RECT",
    "Obstacle",
    "PictureLoader",
    "build",
    "bytes_of_all",
    "gpu_decodes",
    "obstacle",
    "readers",
]
