# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cut one batch into parts that fit, without losing or repeating an image or a box."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

TARGET_KEYS = ("batch_idx", "cls", "bboxes")
"""Entries with one row per box; all others that have one element per image are cut by image (ultralytics data/augment.py, Format)."""


def split(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """Cut a detection batch into at most `parts` batches of nearly equal size, in order.

    Args:
        batch: as ultralytics' loaders make it: `img` (images, 3, height, width), `batch_idx` (boxes,), `cls` (boxes, 1), `bboxes` (boxes, 4),
            and lists or tuples with one element per image.
        parts: how many; more than there are images gives one image each.

    Returns:
        The parts; `batch_idx` counts from 0 in each. `[batch]` itself for one part. Finding the boxes of a part waits for the GPU.
    """
    images = len(batch["img"])
    parts = min(parts, images)
    if parts <= 1:
        return [batch]
    edges = [images * i // parts for i in range(parts + 1)]
    return [_between(batch, images, first, end) for first, end in pairwise(edges)]


def _between(batch: dict[str, Any], images: int, first: int, end: int) -> dict[str, Any]:
    boxes = (batch["batch_idx"] >= first) & (batch["batch_idx"] < end)
    part: dict[str, Any] = {}
    for key, value in batch.items():
        if key in TARGET_KEYS:
            part[key] = value[boxes]
        elif isinstance(value, (torch.Tensor, list, tuple)) and len(value) == images:
            part[key] = value[first:end]
        else:
            part[key] = value
    part["batch_idx"] = part["batch_idx"] - first
    return part
