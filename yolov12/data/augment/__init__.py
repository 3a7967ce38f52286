# SPDX-License-Identifier: AGPL-3.0-or-later
"""The training augmentation of ultralytics for boxes, on tensors: a whole batch at a time, on a GPU or the CPU.

    recipe = draw(rng, indices, Hyperparameters.of(args, imgsz), pick)     # every random choice, on the CPU
    sources = {index: load(index) for index in recipe.needed()}            # decoded pictures, on the device that renders
    batch = render(recipe, sources, device)                                # nothing waits for the GPU

The rules are those of ultralytics/data/augment.py of the pinned version, in its order (v8_transforms, line 2832): mosaic, affine, mixup, cutmix,
HSV, flips. docs/data.md lists what differs.
"""

from yolov12.data.augment.hyperparameters import Hyperparameters, why_not
from yolov12.data.augment.pictures import Pictures, Source
from yolov12.data.augment.recipe import Recipe, draw
from yolov12.data.augment.rendering import Rendered, render

__all__ = ["Hyperparameters", "Pictures", "Recipe", "Rendered", "Source", "draw", "render", "why_not"]
