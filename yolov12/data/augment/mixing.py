# SPDX-License-Identifier: AGPL-3.0-or-later
"""Mixup and cutmix on rendered layers (augment.py:834, 989)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from yolov12.data.augment.recipe import Recipe
from yolov12.data.augment.tensors import chunks, upload


def mix(layers: Tensor, recipe: Recipe, cut_areas: np.ndarray) -> Tensor:
    """The samples, (B, 3, size, size) uint8: the first layers, into which the others are mixed in place.

    Args:
        layers: (L, 3, size, size) uint8, as `warp` renders them, flips done.
        recipe: what was drawn.
        cut_areas: (cutmix layers, 4) int64, xyxy before the flips, from `boxes.mix`.
    """
    samples = layers[: recipe.batch]
    if len(owner := recipe.owner[recipe.mixup_layers]):
        _mixup(samples, layers[recipe.mixup_layers], owner, recipe.mixup_share)
    if len(owner := recipe.owner[recipe.cutmix_layers]):
        _cutmix(samples, layers[recipe.cutmix_layers], owner, _flipped(cut_areas, recipe, owner))
    return samples


def _mixup(samples: Tensor, partners: Tensor, owner: np.ndarray, share: np.ndarray) -> None:
    """Cut off, not rounded, and in float64, since that is what numpy makes of a picture times a Python number."""
    device, size = samples.device, samples.shape[-1]
    into, shares = upload(owner, device), upload(share, device)[:, None, None, None]
    for some in chunks(len(owner), size, device):
        mixed = samples[into[some]] * shares[some] + partners[some] * (1 - shares[some])
        samples[into[some]] = mixed.to(torch.uint8)


def _cutmix(samples: Tensor, partners: Tensor, owner: np.ndarray, areas: np.ndarray) -> None:
    device, size = samples.device, samples.shape[-1]
    into = upload(owner, device)
    left, top, right, bottom = upload(areas, device)[:, :, None, None, None].unbind(1)
    across = torch.arange(size, device=device)
    down = across[:, None]
    for some in chunks(len(owner), size, device):
        is_within = (across >= left[some]) & (across < right[some]) & (down >= top[some]) & (down < bottom[some])
        samples[into[some]] = torch.where(is_within, partners[some], samples[into[some]])


def _flipped(areas: np.ndarray, recipe: Recipe, owner: np.ndarray) -> np.ndarray:
    """Where the areas are after their samples' flips."""
    size = recipe.hyp.imgsz
    left, top, right, bottom = areas.T
    lr, ud = recipe.fliplr[owner], recipe.flipud[owner]
    return np.stack(
        (
            np.where(lr, size - right, left),
            np.where(ud, size - bottom, top),
            np.where(lr, size - left, right),
            np.where(ud, size - top, bottom),
        ),
        axis=1,
    )
