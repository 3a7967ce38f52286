# SPDX-License-Identifier: AGPL-3.0-or-later
"""A drawn batch becomes pixels and labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yolov12.data.augment import backends, boxes, layout, mixing, warp
from yolov12.data.augment.backends import Backend
from yolov12.data.augment.pictures import Pictures, Source
from yolov12.data.augment.recipe import Recipe
from yolov12.data.augment.tensors import current, upload


@dataclass(frozen=True)
class Rendered:
    """One batch, as ultralytics' collate function gives it."""

    img: Tensor
    """(B, 3, imgsz, imgsz) uint8, red, green, blue, on the device. Its content may still be on its way."""
    cls: Tensor
    """(m, 1) float32, on the CPU like the rest."""
    bboxes: Tensor
    """(m, 4) float32: x, y, width, height as fractions of imgsz."""
    batch_idx: Tensor
    """(m,) float32, rising."""


def render(recipe: Recipe, sources: Mapping[int, Source] | Pictures, device: torch.device | str) -> Rendered:
    """Render what was drawn. Nothing here waits for a GPU.

    On a GPU the work is queued on the current stream. Pictures that were made on another one must be waited for there, and kept from being
    used anew (`Tensor.record_stream`), as with any operation of torch.

    Args:
        recipe: from `draw`.
        sources: the pictures that `recipe.needed()` names, by index, or joined already.
        device: where the pictures are, and where the batch is made.

    Raises:
        KeyError: a picture that is needed is not among the sources.
        ValueError: a picture is not uint8, not (height, width, 3), or on another device.
    """
    device = torch.empty(0, device=device).device  # with its number, where only "cuda" was said
    indices = recipe.needed()
    pictures = sources if isinstance(sources, Pictures) else Pictures.of([sources[i] for i in indices.tolist()])
    picture_sizes = pictures.sizes(indices, device)
    slots = np.where(recipe.indices >= 0, np.searchsorted(indices, recipe.indices), -1)
    sizes = np.where((slots >= 0)[..., None], picture_sizes[slots], 0)
    where = layout.lay_out(recipe, sizes)
    forward = layout.forward_matrices(recipe, where.canvas)

    hyp = recipe.hyp
    objects = boxes.collect(pictures, slots, where, recipe.mosaic)
    objects = boxes.warp(objects, forward, recipe.gain, hyp.imgsz, hyp.is_projective)
    objects, cut_areas = boxes.mix(objects, recipe)

    layers = warp.Layers(
        pictures=pictures.images,
        slots=slots,
        sizes=sizes,
        layout=where,
        backward=layout.backward_matrices(recipe, forward),
        size=hyp.imgsz,
        is_projective=hyp.is_projective,
    )
    backend = backends.choose(device)
    with current(device):
        images = _coloured(mixing.mix(backend.warp(layers, device), recipe, cut_areas), recipe, backend)
    return Rendered(
        img=images,
        cls=torch.from_numpy(objects.classes[:, None]),
        bboxes=torch.from_numpy(boxes.flip_and_normalise(objects, recipe)),
        batch_idx=torch.from_numpy(objects.group.astype(np.float32)),
    )


def _coloured(images: Tensor, recipe: Recipe, backend: Backend) -> Tensor:
    """Blue, green, red become red, green, blue, with HSV changed on the way; but for the samples that stay as they were (`bgr`)."""
    finished = backend.recolour(images, recipe.hsv) if recipe.hyp.recolours else images.flip(1)
    if recipe.bgr.any():
        kept = upload(np.flatnonzero(recipe.bgr), finished.device)
        finished[kept] = finished[kept].flip(1)
    return finished
