# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pixels of the layers: each output pixel is looked up once, on the canvas, through the matrix that goes back there.

The canvas is never made. A sample lies between four canvas pixels; for each of them the place is found whose picture covers it, so that a sample
on a seam mixes both pictures, and one on a border mixes in grey 114, exactly as if the canvas had been there.
OpenCV 5.0, which ultralytics runs on here, interpolates in float32 and rounds half to even; so does this. (OpenCV 4 rounded coordinates to 1/32
pixel, which on noise is several grey levels away from either.)

This is the plain path, on any device. cuda.py and kernels.py do the same in one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolov12.data.augment.layout import Layout
from yolov12.data.augment.tensors import CHANNELS, EMPTY, chunks, upload


class Layers(NamedTuple):
    """What is to be rendered."""

    pictures: Sequence[Tensor]
    """Each (height, width, 3) uint8, on the device."""
    slots: np.ndarray
    """(L, 4) int64: which picture lies in each place, -1 for none."""
    sizes: np.ndarray
    """(L, 4, 2) int64: its width and height, 0 for none."""
    layout: Layout
    backward: np.ndarray
    """(L, 3, 3) float32, from output to canvas."""
    size: int
    """Pixels of the output's side."""
    is_projective: bool
    """Whether the last row of the matrices counts."""


def places(layers: Layers, first: np.ndarray, step: int) -> np.ndarray:
    """(L, 4, 6) int64: left, top, right and bottom of what each picture covers, its width, and where canvas pixel 0, 0 would be.

    The canvas pixel x, y that a picture covers is found at `start + step * (y * width + x)`.

    Args:
        layers: what is to be rendered.
        first: (pictures,) int64, where each picture's first pixel is.
        step: from one pixel to the next, in the same unit.
    """
    pad_x, pad_y = layers.layout.pad[..., 0], layers.layout.pad[..., 1]
    width = layers.sizes[..., 0]
    start = first[layers.slots] - step * (pad_y * width + pad_x)
    return np.concatenate((layers.layout.inside, width[..., None], start[..., None]), axis=-1)


def warp(layers: Layers, device: torch.device) -> Tensor:
    """(L, 3, size, size) uint8, channels in the pictures' order."""
    flat = torch.cat([*(picture.reshape(-1, CHANNELS) for picture in layers.pictures), _grey(device)])
    areas = [picture.shape[0] * picture.shape[1] for picture in layers.pictures]
    table = upload(places(layers, np.cumsum([0, *areas[:-1]]), 1), device)
    seam, backward = upload(layers.layout.seam, device), upload(layers.backward, device)
    limit = int(layers.layout.canvas.max())
    rendered = torch.empty((len(layers.slots), CHANNELS, layers.size, layers.size), dtype=torch.uint8, device=device)
    for some in chunks(len(rendered), layers.size, device):
        x, y = _canvas_points(backward[some], layers.size, layers.is_projective)
        # Anything farther out is as empty, and has to fit into an integer.
        pixels = _interpolate(flat, table[some], seam[some], x.clamp(-2, limit + 1), y.clamp(-2, limit + 1))
        rendered[some] = pixels.round().to(torch.uint8).permute(0, 3, 1, 2)
    return rendered


def _grey(device: torch.device) -> Tensor:
    """The pixel that stands for all that are empty."""
    return torch.full((1, CHANNELS), EMPTY, dtype=torch.uint8, device=device)


def _canvas_points(backward: Tensor, size: int, is_projective: bool) -> tuple[Tensor, Tensor]:
    """x and y on the canvas of each output pixel, each (n, size, size) float32."""
    ramp = torch.arange(size, dtype=torch.float32, device=backward.device)
    across = backward[:, :, 0, None, None] * ramp
    down = backward[:, :, 1, None, None] * ramp[:, None] + backward[:, :, 2, None, None]
    x, y, depth = (across + down).unbind(1)
    if not is_projective:
        return x, y
    scale = torch.where(depth == 0, 0, 1 / depth)  # as cv2.warpPerspective
    return x * scale, y * scale


def _interpolate(flat: Tensor, table: Tensor, seam: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(n, size, size, 3) float32: the canvas at x, y, between its pixels.

    Args:
        flat: (pixels, 3) uint8, all pictures; the last one is grey.
        table: (n, 4, 6), from `places` with step 1.
        seam: (n, 2).
        x, y: (n, size, size), each within +- 2^31.
    """
    left_x, upper_y = x.floor(), y.floor()
    beyond_x, beyond_y = x - left_x, y - upper_y
    seam_x, seam_y = seam[:, 0, None, None], seam[:, 1, None, None]
    first_place = 4 * torch.arange(len(table), device=table.device)[:, None, None]
    table = table.flatten(0, 1)
    total: Tensor | float = 0.0
    for lower, right in product((0, 1), (0, 1)):
        column, row = left_x.long() + right, upper_y.long() + lower
        place = first_place + (column >= seam_x) + 2 * (row >= seam_y)
        from_x, from_y, to_x, to_y, width, start = table[place].unbind(-1)
        is_covered = (column >= from_x) & (column < to_x) & (row >= from_y) & (row < to_y)
        pixel = torch.where(is_covered, start + row * width + column, len(flat) - 1)
        weight = (beyond_x if right else 1 - beyond_x) * (beyond_y if lower else 1 - beyond_y)
        total = total + weight[..., None] * flat[pixel]
    return torch.as_tensor(total)
