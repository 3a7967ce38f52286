# SPDX-License-Identifier: AGPL-3.0-or-later
"""Stands in for yolov12.data.augment: no random geometry, so that a test can tell from a batch which pictures it was made of.

Each sample is its picture in the upper left corner on grey 114, and one partner is drawn for it: what that was is noted. `install` puts it in
the place of the real module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Pictures:
    images: Sequence[Tensor]
    counts: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Hyperparameters:
    imgsz: int
    mosaic: float = 1.0

    @classmethod
    def of(cls, args: Any, imgsz: int) -> Hyperparameters:
        return cls(imgsz, float(getattr(args, "mosaic", 1.0)))

    def without_mosaic(self) -> Hyperparameters:
        return replace(self, mosaic=0.0)


@dataclass(frozen=True)
class Recipe:
    indices: np.ndarray
    partners: np.ndarray
    hyperparameters: Hyperparameters

    def needed(self) -> np.ndarray:
        return np.unique(np.concatenate([self.indices, self.partners]))


drawn: list[Recipe] = []
"""What was drawn, in order."""


def why_not(args: Any, task: str, has_segments: bool, custom_transforms: bool) -> str | None:
    if task != "detect" or has_segments:
        return "masks"
    return "custom transforms" if custom_transforms else None


def draw(
    rng: np.random.Generator,
    indices: np.ndarray,
    hyp: Hyperparameters,
    pick: Callable[[np.random.Generator, int], np.ndarray],
) -> Recipe:
    partners = pick(rng, len(indices)) if hyp.mosaic else indices[:0]
    drawn.append(Recipe(indices, partners, hyp))
    return drawn[-1]


def render(recipe: Recipe, pictures: Pictures, device: torch.device) -> Any:
    images = dict(zip(recipe.needed().tolist(), pictures.images, strict=True))
    ends = np.cumsum(pictures.counts)
    rows = dict(zip(images, map(slice, ends - pictures.counts, ends), strict=True))
    side = recipe.hyperparameters.imgsz
    img = torch.full((len(recipe.indices), 3, side, side), 114, dtype=torch.uint8, device=device)
    classes, boxes, of = [], [], []
    for place, index in enumerate(recipe.indices.tolist()):
        height, width, _ = images[index].shape
        img[place, :, :height, :width] = images[index].flip(2).permute(2, 0, 1)
        classes.append(pictures.classes[rows[index], None])
        corners = pictures.boxes[rows[index]] / side
        boxes.append(np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1))
        of.append(np.full(len(classes[-1]), place, np.float32))
    for index in recipe.partners.tolist():
        assert images[index].shape[2] == 3  # it must be there
    joined = [torch.from_numpy(np.concatenate(part).astype(np.float32)) for part in (classes, boxes, of)]
    return SimpleNamespace(img=img, cls=joined[0], bboxes=joined[1], batch_idx=joined[2])


def install() -> None:
    sys.modules["yolov12.data.augment"] = sys.modules[__name__]
