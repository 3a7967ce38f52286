# SPDX-License-Identifier: AGPL-3.0-or-later
"""What suppression chooses from: the boxes of one picture as the source's head gives them, upright or turned, and how alike two of them are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from ultralytics.utils.metrics import batch_probiou

from yolov12.export.boxes import pairwise_iou

TURNED_SIDE = 8
"""How long the longer side of a picture is where a file compares turned boxes (engine/exporter.py:2021)."""
OVERLAP_ROUNDING = 0.02
"""How far from the threshold two rows of the file itself may overlap: whatever rounded its network, they are what it suppressed, offset by class."""


def angle_of(score: float) -> float:
    """What may become of an angle, in radians, where that may become of a score: it is pi times a sigmoid (nn/modules/head.py, OBB)."""
    return np.pi * score


@dataclass(frozen=True)
class Room:
    """What rounding may do to a box."""

    least_iou: float
    """Of a row and the candidate that it is."""
    score: float

    @property
    def overlap(self) -> float:
        """How far the overlap of two boxes may then be from what it was."""
        return 2 * (1 - self.least_iou)

    @property
    def angle(self) -> float:
        """How far a turned box may be turned from what it was, in radians."""
        return angle_of(self.score)


@dataclass(frozen=True)
class Candidates:
    """What the source's head says of one picture."""

    boxes: np.ndarray
    """(anchors, 4): x1, y1, x2, y2 in pixels of the input; or (anchors, 5), turned ones centre, width, height, angle in radians."""
    scores: np.ndarray
    """(anchors, classes)."""
    others: np.ndarray
    """(anchors, n): coefficients of masks, keypoints, or the angle."""
    turned_px: int = 0
    """The longer side of the picture where boxes are turned, else 0."""

    @property
    def turned(self) -> bool:
        """Whether the boxes have an angle."""
        return self.turned_px > 0

    @staticmethod
    def of(output: np.ndarray, classes: int, turned_px: int = 0) -> Candidates:
        """From (4 + classes + n, anchors), with centre, width and height in front.

        Args:
            output: of the network, for one picture.
            classes: how many there are.
            turned_px: the longer side of the picture where what is behind the classes is an angle, else 0.
        """
        boxes, scores, others = np.split(output.T, [4, 4 + classes], axis=1)
        if turned_px:
            return Candidates(np.hstack([boxes, others]), scores, others, turned_px)
        half = boxes[:, 2:] / 2
        return Candidates(np.hstack([boxes[:, :2] - half, boxes[:, :2] + half]), scores, others)

    def only(self, which: np.ndarray) -> Candidates:
        """Some of them."""
        return Candidates(self.boxes[which], self.scores[which], self.others[which], self.turned_px)

    def boxes_of(self, rows: np.ndarray) -> np.ndarray:
        """Those of (n, >= 6) rows of a file, as `boxes`."""
        return np.hstack([rows[:, :4], rows[:, 6:]]) if self.turned else rows[:, :4]

    def likeness(self, boxes: np.ndarray) -> np.ndarray:
        """How much of a box each of `boxes` is: (anchors, boxes), 1 for the same."""
        return _probabilistic_iou(self.boxes, boxes) if self.turned else pairwise_iou(self.boxes, boxes)

    def rivalry(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """What suppression in a file compares with its threshold, of every box of `a` with every box of `b`.

        Of turned ones it is not what their likeness is: before it compares them the file makes the picture 8 long (engine/exporter.py:2021), and then
        the 1e-7 that keeps the formula from dividing by zero makes small boxes more alike than they are.
        """
        if not self.turned:
            return pairwise_iou(a, b)
        scale = np.array([TURNED_SIDE / self.turned_px] * 4 + [1.0])
        return _probabilistic_iou(a * scale, b * scale)


def _probabilistic_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ultralytics' overlap of turned boxes, (n, 5) and (m, 5) -> (n, m). In float64: of thin boxes a float32 does not know that they are the same."""
    return batch_probiou(torch.from_numpy(a.astype(np.float64)), torch.from_numpy(b.astype(np.float64))).numpy()
