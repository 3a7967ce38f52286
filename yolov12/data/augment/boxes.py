# SPDX-License-Identifier: AGPL-3.0-or-later
"""Upstream's rules for boxes, in float32 as there, on the boxes of all layers at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from yolov12.data.augment.layout import Layout
from yolov12.data.augment.pictures import Pictures
from yolov12.data.augment.recipe import Recipe
from yolov12.data.ragged import rows_of

LEAST_SIDE_PX = 2
LEAST_AREA_KEPT = 0.1
MOST_ASPECT = 100
LEAST_CUTMIX_SHARE = 0.1
"""Of an object's area that cutmix must paste for it to count (augment.py:978)."""
EPSILON = 1e-16
IOA_EPSILON = 1e-7


class Objects(NamedTuple):
    """Boxes of many layers or samples, ordered by them."""

    group: np.ndarray
    """(n,) int64: the layer, later the sample."""
    classes: np.ndarray
    """(n,) float32."""
    boxes: np.ndarray
    """(n, 4) float32, xyxy in pixels."""

    def where(self, kept: np.ndarray) -> Objects:
        """Those that a mask or an index array selects."""
        return Objects(self.group[kept], self.classes[kept], self.boxes[kept])


def collect(pictures: Pictures, slots: np.ndarray, layout: Layout, mosaic: np.ndarray) -> Objects:
    """The objects of each layer on its canvas, picture by picture (Mosaic._cat_labels, augment.py:727).

    Args:
        pictures: whose objects they are.
        slots: (L, 4), which picture lies in each place, -1 for none.
        layout: where they lie.
        mosaic: (L,) bool. Only a mosaic clips to its canvas and drops what has no area; a single picture's boxes go on as they are.
    """
    layers, places = np.nonzero(slots >= 0)
    used = slots[layers, places]
    starts, counts = (np.cumsum(pictures.counts) - pictures.counts)[used], pictures.counts[used]
    layer, place = np.repeat(layers, counts), np.repeat(places, counts)
    rows = rows_of(starts, counts)
    on_canvas = pictures.boxes[rows] + np.tile(layout.pad[layer, place], 2).astype(np.float32)
    of_mosaic = mosaic[layer]
    edge = np.tile(layout.canvas[layer], 2).astype(np.float32)
    on_canvas = np.where(of_mosaic[:, None], on_canvas.clip(0, edge), on_canvas)
    return Objects(layer, pictures.classes[rows], on_canvas).where(~of_mosaic | (_area(on_canvas) > 0))


def warp(objects: Objects, forward: np.ndarray, gain: np.ndarray, size: int, is_projective: bool) -> Objects:
    """Boxes about the moved corners, clipped to the output; what is left of too few is dropped (augment.py:1219).

    Args:
        objects: of layers, on their canvases.
        forward: (L, 3, 3) float32, `layout.forward_matrices`.
        gain: (L,), by which a box would have grown without rotation, shear and border.
        size: pixels of the output's side.
        is_projective: whether the last row of the matrices counts.
    """
    # Corners and coordinates first: numpy reduces over the first axis much faster than over a last one of four.
    column, row = objects.boxes.T[[0, 2, 0, 2]], objects.boxes.T[[1, 3, 3, 1]]
    x, y, depth = (a * column + b * row + c for a, b, c in np.moveaxis(forward[objects.group], 0, -1))
    if is_projective:
        x, y = x / depth, y / depth
    warped = np.stack((x.min(0), y.min(0), x.max(0), y.max(0)), axis=1).clip(0, size)
    full = objects.boxes * gain[objects.group].astype(np.float32)[:, None]
    return objects._replace(boxes=warped).where(candidates(full, warped))


def candidates(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(n,) bool: which boxes are still worth learning (RandomPerspective.box_candidates, augment.py:1410)."""
    width_before, height_before = _sides(before)
    width, height = _sides(after)
    aspect = np.maximum(width / (height + EPSILON), height / (width + EPSILON))
    share = width * height / (width_before * height_before + EPSILON)
    large_enough = (width > LEAST_SIDE_PX) & (height > LEAST_SIDE_PX)
    return large_enough & (share > LEAST_AREA_KEPT) & (aspect < MOST_ASPECT)


def mix(objects: Objects, recipe: Recipe) -> tuple[Objects, np.ndarray]:
    """Bring the layers' objects together by sample: the base layer's, then mixup's, then what cutmix pasted.

    Returns:
        The objects, `group` being the sample; and the area of each cutmix layer, (cutmix layers, 4) int64 xyxy before the flips. The area is
        empty where cutmix is skipped: no candidate is free of the sample's objects, or none of the partner's lies in it (augment.py:956).
    """
    is_cut = objects.group >= recipe.cutmix_layers.start
    bases, partners = objects.where(~is_cut), objects.where(is_cut)
    bases = bases._replace(group=recipe.owner[bases.group])
    pasted, areas = _cut(bases, partners, recipe)
    joined = Objects(*(np.concatenate(pair) for pair in zip(bases, pasted, strict=True)))
    return joined.where(np.argsort(joined.group, kind="stable")), areas


def _cut(bases: Objects, partners: Objects, recipe: Recipe) -> tuple[Objects, np.ndarray]:
    """Choose each cutmix area, and clip the partner's objects to it."""
    start, count = recipe.cutmix_layers.start, len(recipe.cut_choice)
    cut_of_sample = np.full(recipe.batch, -1)
    cut_of_sample[recipe.owner[recipe.cutmix_layers]] = np.arange(count)

    touched = np.zeros(recipe.cut_areas.shape[:2], dtype=bool)
    cut = cut_of_sample[bases.group]
    near, cut = bases.where(cut >= 0), cut[cut >= 0]
    np.logical_or.at(touched, cut, _share_within(recipe.cut_areas[cut], near.boxes[:, None]) > 0)
    free = ~touched
    rank = (recipe.cut_choice * free.sum(axis=1)).astype(np.int64)
    chosen = np.argmax(free & (free.cumsum(axis=1) == rank[:, None] + 1), axis=1)
    # Empty where none is free: argmax then says 0.
    areas = recipe.cut_areas[np.arange(count), chosen] * free[np.arange(count), chosen, None]

    cut = partners.group - start
    pasted = partners._replace(group=recipe.owner[partners.group])
    is_pasted = _share_within(areas[cut], pasted.boxes) >= LEAST_CUTMIX_SHARE
    areas[np.bincount(cut[is_pasted], minlength=count) == 0] = 0
    clipped = pasted.boxes.clip(areas[cut][:, [0, 1, 0, 1]], areas[cut][:, [2, 3, 2, 3]])
    return pasted._replace(boxes=clipped).where(is_pasted), areas.astype(np.int64)


def flip_and_normalise(objects: Objects, recipe: Recipe) -> np.ndarray:
    """(n, 4) float32, x, y, width, height as fractions of the output, after the flips (augment.py:1614, 2432)."""
    size = recipe.hyp.imgsz
    x1, y1, x2, y2 = objects.boxes.T
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    y = np.where(recipe.flipud[objects.group], size - y, y)
    x = np.where(recipe.fliplr[objects.group], size - x, x)
    return np.stack((x, y, x2 - x1, y2 - y1), axis=1) / np.float32(size)


def _share_within(areas: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Which part of each box lies in its area; both (..., 4) (bbox_ioa, utils/metrics.py:53)."""
    low = np.maximum(areas[..., :2], boxes[..., :2])
    high = np.minimum(areas[..., 2:], boxes[..., 2:])
    width, height = np.moveaxis((high - low).clip(0), -1, 0)
    return width * height / (_area(boxes) + IOA_EPSILON)


def _area(boxes: np.ndarray) -> np.ndarray:
    width, height = _sides(boxes)
    return width * height


def _sides(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
