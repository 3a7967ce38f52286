# SPDX-License-Identifier: AGPL-3.0-or-later
"""Hue, saturation and brightness in OpenCV's 8-bit arithmetic, as RandomHSV has it (augment.py:1491).

There and back costs a grey level here and there even where nothing is changed; that is part of what upstream trains on, and is kept. From BGR to
HSV OpenCV counts in whole numbers with tables, which is followed to the bit. The way back is float32, cut off and not rounded; about one value in
20,000 is one grey level away from OpenCV's, which fuses two roundings into one.
(OpenCV rounds in the last few columns of a picture whose width does not fill its vectors. At widths that are multiples of 32 there are none.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolov12.data.augment.tensors import chunks, upload

HUES = 180
SHIFT = 12
"""Binary digits behind the point in OpenCV's tables."""
# Of value, p, q, t (which one is) blue, green, red in each sixth of the circle.
SECTORS = ((1, 3, 0), (1, 0, 2), (3, 0, 1), (0, 2, 1), (0, 1, 3), (2, 1, 0))


def lookup_tables(gains: np.ndarray) -> np.ndarray:
    """(B, 3, 256) uint8: what becomes of each hue, saturation and value.

    Args:
        gains: (B, 3) float64. Hue is turned by its gain times 180; the others are multiplied by 1 plus theirs, so that saturation 0 stays 0,
            which upstream sets once more (augment.py:1523).
    """
    levels = np.arange(256.0)
    hue, saturation, value = np.moveaxis(gains[:, :, None], 1, 0)
    return np.stack(
        (
            (levels + hue * HUES) % HUES,
            np.clip(levels * (saturation + 1), 0, 255),
            np.clip(levels * (value + 1), 0, 255),
        ),
        axis=1,
    ).astype(np.uint8)


def recolour(images: Tensor, gains: np.ndarray) -> Tensor:
    """(B, 3, size, size) uint8 in red, green, blue.

    Args:
        images: (B, 3, size, size) uint8 in blue, green, red.
        gains: (B, 3) float64, hue, saturation, value.
    """
    tables = upload(lookup_tables(gains), images.device)
    coloured = torch.empty_like(images)
    for some in chunks(len(images), images.shape[-1], images.device):
        hue, saturation, value = (
            torch.gather(table, 1, plane.flatten(1).long()).view_as(plane)
            for table, plane in zip(tables[some].unbind(1), hsv_of(images[some]), strict=True)
        )
        coloured[some] = torch.stack(bgr_of(hue, saturation, value)[::-1], dim=1)
    return coloured


class Constants(NamedTuple):
    """Of this module, on one device."""

    for_saturation: Tensor
    """(256,) int32: OpenCV's table of 255 / value."""
    for_hue: Tensor
    """(256,) int32: and of 30 / chroma."""
    sectors: Tensor
    """(6, 3) int64."""


@lru_cache
def constants(device: torch.device) -> Constants:
    """Copied with a wait, once, so that they may be used on any stream."""
    levels = np.arange(1, 256)
    saturation, hue = (
        torch.from_numpy(np.concatenate(([0], np.rint((top << SHIFT) / levels))).astype(np.int32))
        for top in (255, HUES // 6)
    )
    return Constants(saturation.to(device), hue.to(device), torch.tensor(SECTORS, device=device))


def hsv_of(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue 0..179, saturation and value 0..255 of (n, 3, ...) uint8 in blue, green, red; each int32 without the channel dimension."""
    blue, green, red = images.to(torch.int32).unbind(1)
    value = torch.maximum(torch.maximum(blue, green), red)
    chroma = value - torch.minimum(torch.minimum(blue, green), red)
    for_saturation, for_hue, _ = constants(images.device)
    half = 1 << (SHIFT - 1)
    saturation = (chroma * for_saturation[value] + half) >> SHIFT
    sixth = torch.where(
        value == red,
        green - blue,
        torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma),
    )
    hue = (sixth * for_hue[chroma] + half) >> SHIFT
    return torch.where(hue < 0, hue + HUES, hue), saturation, value


def bgr_of(hue: Tensor, saturation: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Blue, green, red as uint8, of hue 0..179, saturation and value 0..255 of any integer type."""
    sixths = hue.float() * (6 / HUES)
    sector = sixths.floor()
    beyond = sixths - sector
    share, bright = saturation.float() * (1 / 255), value.float() * (1 / 255)
    choices = torch.stack(
        (bright, bright * (1 - share), bright * (1 - share * beyond), bright * (1 - share * (1 - beyond)))
    )
    which = constants(hue.device).sectors[sector.long()]
    blue, green, red = (
        (torch.gather(choices, 0, which[None, ..., channel])[0] * 255).to(torch.uint8) for channel in range(3)
    )
    return blue, green, red
