# SPDX-License-Identifier: AGPL-3.0-or-later
"""`warp` and `recolour` as one Triton kernel each, for NVIDIA GPUs on which the compiled ones (cuda.py) are not there.

What the plain paths (warp.py, colour.py) do in some sixty passes over temporaries happens in registers here: a byte of a picture is read where it
is needed, and a byte of the result is written once. Pictures are read where they lie, through their addresses, so that they need not be joined.
Tests compare both with the plain paths under Triton's interpreter, and compile them for the GPUs that the images serve; tests/gpu/test_augment.py
runs them.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from yolov12.data.augment import colour
from yolov12.data.augment.tensors import CHANNELS, EMPTY, upload
from yolov12.data.augment.warp import Layers, places

BLOCK = 512
"""Neighbouring pixels of one program."""


def warp(layers: Layers, device: torch.device) -> Tensor:
    """`warp.warp` in one kernel."""
    pictures = [
        picture.contiguous() for picture in layers.pictures
    ]  # alive until the launch; later work cannot overtake it
    first = np.array([picture.data_ptr() for picture in pictures], dtype=np.int64)
    rendered = torch.empty((len(layers.slots), CHANNELS, layers.size, layers.size), dtype=torch.uint8, device=device)
    grid = triton.cdiv(layers.size**2, BLOCK), len(rendered)
    _warp[grid](
        upload(places(layers, first, CHANNELS), device),
        upload(layers.layout.seam, device),
        upload(layers.backward, device),
        rendered,
        layers.size,
        int(layers.layout.canvas.max()) + 1,
        EMPTY=EMPTY,
        IS_PROJECTIVE=layers.is_projective,
        BLOCK=BLOCK,
    )
    return rendered


def recolour(images: Tensor, gains: np.ndarray) -> Tensor:
    """`colour.recolour` in one kernel."""
    images = images.contiguous()
    coloured = torch.empty_like(images)
    area = images.shape[-2] * images.shape[-1]
    for_saturation, for_hue, _ = colour.constants(images.device)
    _recolour[triton.cdiv(area, BLOCK), len(images)](
        images, upload(colour.lookup_tables(gains), images.device), for_saturation, for_hue, coloured, area, BLOCK=BLOCK
    )
    return coloured


@triton.jit
def _warp(
    table,  # (L, 4, 6) int64, from `places` with addresses in bytes
    seam,  # (L, 2) int64
    backward,  # (L, 3, 3) float32
    rendered,  # (L, 3, size, size) uint8
    size,
    limit,  # a coordinate from which on everything is empty
    EMPTY: tl.constexpr,
    IS_PROJECTIVE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    layer = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_pixel = pixel < size * size
    across = (pixel % size).to(tl.float32)
    down = (pixel // size).to(tl.float32)

    matrix = backward + layer * 9
    x = tl.load(matrix) * across + (tl.load(matrix + 1) * down + tl.load(matrix + 2))
    y = tl.load(matrix + 3) * across + (tl.load(matrix + 4) * down + tl.load(matrix + 5))
    if IS_PROJECTIVE:
        depth = tl.load(matrix + 6) * across + (tl.load(matrix + 7) * down + tl.load(matrix + 8))
        scale = tl.where(depth == 0, 0.0, 1.0 / tl.where(depth == 0, 1.0, depth))
        x *= scale
        y *= scale
    x = tl.minimum(tl.maximum(x, -2.0), limit.to(tl.float32))
    y = tl.minimum(tl.maximum(y, -2.0), limit.to(tl.float32))
    left_x = tl.floor(x)
    upper_y = tl.floor(y)
    beyond_x = x - left_x
    beyond_y = y - upper_y
    seam_x = tl.load(seam + layer * 2)
    seam_y = tl.load(seam + layer * 2 + 1)

    blue = tl.full((BLOCK,), 0.0, tl.float32)
    green = tl.full((BLOCK,), 0.0, tl.float32)
    red = tl.full((BLOCK,), 0.0, tl.float32)
    for lower in tl.static_range(2):
        for right in tl.static_range(2):
            column = left_x.to(tl.int64) + right
            row = upper_y.to(tl.int64) + lower
            place = (column >= seam_x).to(tl.int64) + 2 * (row >= seam_y).to(tl.int64)
            entry = table + (layer * 4 + place) * 6
            is_covered = (column >= tl.load(entry)) & (row >= tl.load(entry + 1))
            is_covered = is_covered & (column < tl.load(entry + 2)) & (row < tl.load(entry + 3)) & is_pixel
            address = tl.load(entry + 5) + 3 * (row * tl.load(entry + 4) + column)
            bytes_of_pixel = address.to(tl.pointer_type(tl.uint8))
            weight = (beyond_x if right else 1.0 - beyond_x) * (beyond_y if lower else 1.0 - beyond_y)
            blue += weight * tl.load(bytes_of_pixel, mask=is_covered, other=EMPTY).to(tl.float32)
            green += weight * tl.load(bytes_of_pixel + 1, mask=is_covered, other=EMPTY).to(tl.float32)
            red += weight * tl.load(bytes_of_pixel + 2, mask=is_covered, other=EMPTY).to(tl.float32)

    # Half to even: beyond 2^23 a float32 has no binary digits behind the point.
    NO_FRACTION: tl.constexpr = 12582912.0
    plane = size * size
    target = rendered + layer * 3 * plane + pixel
    tl.store(target, ((blue + NO_FRACTION) - NO_FRACTION).to(tl.int32).to(tl.uint8), mask=is_pixel)
    tl.store(target + plane, ((green + NO_FRACTION) - NO_FRACTION).to(tl.int32).to(tl.uint8), mask=is_pixel)
    tl.store(target + 2 * plane, ((red + NO_FRACTION) - NO_FRACTION).to(tl.int32).to(tl.uint8), mask=is_pixel)


@triton.jit
def _recolour(
    images,  # (B, 3, area) uint8 in blue, green, red
    tables,  # (B, 3, 256) uint8
    for_saturation,  # (256,) int32
    for_hue,  # (256,) int32
    coloured,  # (B, 3, area) uint8 in red, green, blue
    area,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_pixel = pixel < area
    source = images + image * 3 * area + pixel
    blue = tl.load(source, mask=is_pixel, other=0).to(tl.int32)
    green = tl.load(source + area, mask=is_pixel, other=0).to(tl.int32)
    red = tl.load(source + 2 * area, mask=is_pixel, other=0).to(tl.int32)

    value = tl.maximum(tl.maximum(blue, green), red)
    chroma = value - tl.minimum(tl.minimum(blue, green), red)
    saturation = (chroma * tl.load(for_saturation + value) + 2048) >> 12
    sixth = tl.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    sixth = tl.where(value == red, green - blue, sixth)
    hue = (sixth * tl.load(for_hue + chroma) + 2048) >> 12
    hue = tl.where(hue < 0, hue + 180, hue)

    table = tables + image * 768
    sixths = tl.load(table + hue).to(tl.float32) * (6 / 180)
    share = tl.load(table + 256 + saturation).to(tl.float32) * (1 / 255)
    bright = tl.load(table + 512 + value).to(tl.float32) * (1 / 255)
    sector = tl.floor(sixths)
    beyond = sixths - sector
    least = bright * (1.0 - share)
    falling = bright * (1.0 - share * beyond)
    rising = bright * (1.0 - share * (1.0 - beyond))
    blue_part = tl.where(sector < 2, least, tl.where(sector == 2, rising, tl.where(sector == 5, falling, bright)))
    green_part = tl.where(sector == 0, rising, tl.where(sector < 3, bright, tl.where(sector == 3, falling, least)))
    red_part = tl.where(sector == 1, falling, tl.where((sector == 2) | (sector == 3), least, bright))
    red_part = tl.where(sector == 4, rising, red_part)

    target = coloured + image * 3 * area + pixel
    tl.store(target, (red_part * 255.0).to(tl.int32).to(tl.uint8), mask=is_pixel)
    tl.store(target + area, (green_part * 255.0).to(tl.int32).to(tl.uint8), mask=is_pixel)
    tl.store(target + 2 * area, (blue_part * 255.0).to(tl.int32).to(tl.uint8), mask=is_pixel)
