# SPDX-License-Identifier: AGPL-3.0-or-later
"""From a model's raw output to its detections: threshold and non-maximum suppression, as upstream's defaults have it (utils/nms.py)."""

from __future__ import annotations

import numpy as np

CANDIDATES = 30_000
"""The best that suppression looks at."""


def suppress(output: np.ndarray, conf: float, iou: float, max_det: int) -> np.ndarray:
    """Detections (n, 6): x1, y1, x2, y2 in pixels of the input, score, class; best first. Boxes suppress only those of their own class.

    Args:
        output: (4 + classes, anchors) float: centre x and y, width, height, then a score per class.
        conf: scores must be above this.
        iou: of two boxes that overlap by more than this, the one with the lower score goes.
        max_det: the most detections.
    """
    scores = output[4:].max(axis=0)
    kept = np.flatnonzero(scores > conf)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:CANDIDATES]
    centre, size = output[:2, kept].T, output[2:4, kept].T
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    classes = output[4:, kept].argmax(axis=0)
    chosen = []
    waiting = np.arange(len(kept))
    while len(waiting) and len(chosen) < max_det:
        best, rest = waiting[0], waiting[1:]
        chosen.append(best)
        waiting = rest[(classes[rest] != classes[best]) | (overlap(boxes[best], boxes[rest]) <= iou)]
    columns = [boxes[chosen], scores[kept][chosen, None], classes[chosen, None]]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box (4,) with others (n, 4), corners as x1, y1, x2, y2; two empty boxes do not overlap."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return shared / np.maximum(union, np.finfo(np.float32).tiny)
