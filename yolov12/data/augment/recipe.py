# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every random choice of one batch, drawn at once.

A batch is made of layers. A layer is a mosaic of four pictures, or one picture, under an affine transformation of its own. Each sample has a
base layer; mixup adds one to it, and so does cutmix, since their second picture is one that went through mosaic and affine, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from yolov12.data.augment.hyperparameters import Hyperparameters

Pick: TypeAlias = Callable[[np.random.Generator, int], np.ndarray]
"""`pick(rng, count)` gives the data set's indices of `count` partner pictures."""

TILES = 4
MIXUP_BETA = 32.0
CUTMIX_BETA = 1.0
CUT_CANDIDATES = 3
"""Areas that cutmix tries for one that covers no object (augment.py:913)."""


@dataclass(frozen=True)
class Recipe:
    """What was drawn. Layers (L) are all base layers, then mixup's, then cutmix's; samples (B) are those of the batch."""

    hyp: Hyperparameters
    owner: np.ndarray
    """(L,) int64: the sample to which a layer belongs."""
    indices: np.ndarray
    """(L, 4) int64: pictures top left, top right, bottom left, bottom right; -1 but for the first where there is no mosaic."""
    seam: np.ndarray
    """(L, 2) int64: x, y at which the four meet, on a canvas of twice the output's size."""
    perspective: np.ndarray
    """(L, 2) float64."""
    angle_deg: np.ndarray
    """(L,) float64."""
    gain: np.ndarray
    """(L,) float64."""
    shear_deg: np.ndarray
    """(L, 2) float64."""
    middle: np.ndarray
    """(L, 2) float64: x, y in output pixels where the middle of the canvas goes."""
    mixup_share: np.ndarray
    """(mixup layers,) float64: the base layer's share."""
    cut_areas: np.ndarray
    """(cutmix layers, 3, 4) float32: candidates, xyxy in whole pixels before the flips."""
    cut_choice: np.ndarray
    """(cutmix layers,) float64 in [0, 1): which of the candidates that are free."""
    hsv: np.ndarray
    """(B, 3) float64: hue, saturation, value, within +- their gains."""
    flipud: np.ndarray
    """(B,) bool; `fliplr` and `bgr`, too."""
    fliplr: np.ndarray
    bgr: np.ndarray

    @property
    def batch(self) -> int:
        """Samples."""
        return len(self.flipud)

    @property
    def mosaic(self) -> np.ndarray:
        """(L,) bool: which layers are of four pictures."""
        return self.indices[:, 1] >= 0

    @property
    def mixup_layers(self) -> slice:
        """Where in the layers those of mixup are."""
        return slice(self.batch, self.batch + len(self.mixup_share))

    @property
    def cutmix_layers(self) -> slice:
        """Where in the layers those of cutmix are."""
        return slice(self.batch + len(self.mixup_share), len(self.owner))

    def needed(self) -> np.ndarray:
        """Unique indices of the pictures that `render` looks up, rising."""
        return np.unique(self.indices[self.indices >= 0])


def draw(rng: np.random.Generator, indices: np.ndarray, hyp: Hyperparameters, pick: Pick) -> Recipe:
    """Draw all random choices for the samples whose pictures are `indices` (B,), from the distributions of ultralytics/data/augment.py."""
    batch, size = len(indices), hyp.imgsz
    mixed = np.flatnonzero(rng.random(batch) < hyp.mixup)
    cut = np.flatnonzero(rng.random(batch) < hyp.cutmix)
    owner = np.concatenate((np.arange(batch), mixed, cut))
    layers = len(owner)

    table = np.full((layers, TILES), -1, dtype=np.int64)
    table[:batch, 0] = indices
    table[batch:, 0] = _picked(rng, pick, layers - batch)
    mosaic = rng.random(layers) < hyp.mosaic
    table[mosaic, 1:] = _picked(rng, pick, int(mosaic.sum()) * (TILES - 1)).reshape(-1, TILES - 1)

    margin = -(-size // 2)
    half = 0.5
    return Recipe(
        hyp=hyp,
        owner=owner,
        indices=table,
        seam=rng.uniform(margin, 2 * size - margin, (layers, 2)).astype(np.int64),
        perspective=rng.uniform(-hyp.perspective, hyp.perspective, (layers, 2)),
        angle_deg=rng.uniform(-hyp.degrees, hyp.degrees, layers),
        gain=rng.uniform(*hyp.gains, layers),
        shear_deg=rng.uniform(-hyp.shear, hyp.shear, (layers, 2)),
        middle=rng.uniform(half - hyp.translate, half + hyp.translate, (layers, 2)) * size,
        mixup_share=rng.beta(MIXUP_BETA, MIXUP_BETA, len(mixed)),
        cut_areas=_cut_areas(rng, len(cut), size),
        cut_choice=rng.random(len(cut)),
        hsv=rng.uniform(-1, 1, (batch, 3)) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v),
        flipud=rng.random(batch) < hyp.flipud,
        fliplr=rng.random(batch) < hyp.fliplr,
        bgr=rng.random(batch) < hyp.bgr,
    )


def _picked(rng: np.random.Generator, pick: Pick, count: int) -> np.ndarray:
    """`count` partners; `pick` is not asked for none, since a ring that is still empty has none to give."""
    return np.asarray(pick(rng, count)) if count else np.empty(0, dtype=np.int64)


def _cut_areas(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    """(count, 3, 4) float32: rectangles about a uniform point, cut off at the border (augment.py:927)."""
    share = np.sqrt(1.0 - rng.beta(CUTMIX_BETA, CUTMIX_BETA, (count, CUT_CANDIDATES, 1)))
    half = (size * share).astype(np.int64) // 2
    point = rng.integers(size, size=(count, CUT_CANDIDATES, 2))
    return np.concatenate((point - half, point + half), axis=-1).clip(0, size).astype(np.float32)
