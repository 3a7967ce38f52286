# SPDX-License-Identifier: AGPL-3.0-or-later
"""Boxes and names on a picture."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np


def colour(number: int) -> tuple[int, int, int]:
    """BGR of a class: neighbours differ, and the same class has the same colour in every run."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85, 0.95)  # the golden ratio spreads hues evenly
    return int(blue * 255), int(green * 255), int(red * 255)


def draw(picture: np.ndarray, detections: np.ndarray, names: dict[int, str]) -> np.ndarray:
    """A copy of a BGR picture with each detection (n, 6) as a box with its class and score."""
    drawn = picture.copy()
    thickness = max(round(sum(picture.shape[:2]) * 0.0015), 1)
    for x1, y1, x2, y2, score, number in detections:
        corner, shade = (round(float(x1)), round(float(y1))), colour(int(number))
        cv2.rectangle(drawn, corner, (round(float(x2)), round(float(y2))), shade, thickness)
        words = f"{names.get(int(number), int(number))} {score:.2f}"
        above = (corner[0], max(corner[1] - 2 * thickness, 12))
        cv2.putText(drawn, words, above, cv2.FONT_HERSHEY_SIMPLEX, thickness / 3, shade, thickness, cv2.LINE_AA)
    return drawn
