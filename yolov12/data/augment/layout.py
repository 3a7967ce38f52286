# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where pictures lie on their layer's canvas, and the matrices between canvas and output.

A mosaic's four pictures meet in the seam, on a canvas of twice the output's size. A single picture is the top left one of a mosaic whose seam
is that picture's lower right corner, on a canvas of the picture's own size: the same formulas hold for both.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from yolov12.data.augment.recipe import TILES, Recipe

IS_RIGHT = np.array([False, True, False, True])
IS_LOWER = np.array([False, False, True, True])


class Layout(NamedTuple):
    """All in whole pixels of the canvas, int64."""

    seam: np.ndarray
    """(L, 2): x, y."""
    canvas: np.ndarray
    """(L, 2): width, height."""
    pad: np.ndarray
    """(L, 4, 2): x, y of each picture's upper left corner, which may lie outside of the canvas."""
    inside: np.ndarray
    """(L, 4, 4): left, top, right, bottom of what each picture covers; empty where there is no picture."""


def lay_out(recipe: Recipe, sizes: np.ndarray) -> Layout:
    """Place pictures as Mosaic.get_params does (augment.py:519).

    Args:
        recipe: what was drawn.
        sizes: (L, 4, 2) int64, width and height of each picture; 0, 0 where there is none.
    """
    mosaic = recipe.mosaic[:, None]
    seam = np.where(mosaic, recipe.seam, sizes[:, 0])
    canvas = np.where(mosaic, 2 * recipe.hyp.imgsz, sizes[:, 0])
    is_beyond = np.stack((IS_RIGHT, IS_LOWER), axis=-1)
    pad = np.where(is_beyond, seam[:, None], seam[:, None] - sizes)
    edge = canvas[:, None]
    inside = np.concatenate((pad.clip(0), np.minimum(pad + sizes, edge)), axis=-1)
    assert inside.shape[1:] == (TILES, 4)
    return Layout(seam=seam, canvas=canvas, pad=pad, inside=inside)


def forward_matrices(recipe: Recipe, canvas: np.ndarray) -> np.ndarray:
    """(L, 3, 3) float32 from canvas to output, in pixels, before the flips: T S R P C of RandomPerspective (augment.py:1132).

    Args:
        recipe: what was drawn.
        canvas: (L, 2), width and height.
    """
    centre, perspective, rotation, shear, translation = np.tile(np.eye(3, dtype=np.float32), (5, len(canvas), 1, 1))
    centre[:, :2, 2] = -canvas / 2
    perspective[:, 2, :2] = recipe.perspective
    # cv2.getRotationMatrix2D about the origin.
    angle = np.deg2rad(recipe.angle_deg)
    cosine, sine = recipe.gain * np.cos(angle), recipe.gain * np.sin(angle)
    rotation[:, 0, 0], rotation[:, 0, 1] = cosine, sine
    rotation[:, 1, 0], rotation[:, 1, 1] = -sine, cosine
    shear[:, 0, 1], shear[:, 1, 0] = np.tan(np.deg2rad(recipe.shear_deg)).T
    translation[:, :2, 2] = recipe.middle
    return translation @ shear @ rotation @ perspective @ centre


def backward_matrices(recipe: Recipe, forward: np.ndarray) -> np.ndarray:
    """(L, 3, 3) float32 from output, after its sample's flips, to the canvas.

    A matrix that squeezes everything onto a line (gain 0) has no inverse; zeros then, as OpenCV takes.
    """
    size = recipe.hyp.imgsz
    flip = np.tile(np.eye(3), (len(forward), 1, 1))
    for axis, flipped in ((0, recipe.fliplr[recipe.owner]), (1, recipe.flipud[recipe.owner])):
        flip[flipped, axis, axis], flip[flipped, axis, 2] = -1, size - 1
    return (_inverse(forward.astype(np.float64)) @ flip).astype(np.float32)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """Of (L, 3, 3), by its cofactors; zeros where the determinant is 0."""
    rows = matrix[:, 0], matrix[:, 1], matrix[:, 2]
    cofactors = np.stack((np.cross(rows[1], rows[2]), np.cross(rows[2], rows[0]), np.cross(rows[0], rows[1])), axis=-1)
    determinant = np.sum(rows[0] * cofactors[..., 0], axis=-1)
    singular = determinant == 0
    return cofactors * (~singular / np.where(singular, 1, determinant))[:, None, None]
