# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is different where boxes have an angle: ultralytics' function for them (utils/nms.py, TorchNMS.fast_nms) is not greedy.

A box goes if any better one of its class overlaps it, also one that went itself. So whoever went is reached from a box that is left, over boxes each
of which is better than the next; and no box is left that a better one overlaps, whatever became of that one.
"""

from __future__ import annotations

import numpy as np

from yolov12.export.candidates import OVERLAP_ROUNDING, Candidates, Room
from yolov12.export.request import Suppression

COMPETING = 5
"""Times `max_det`: how many of the best candidates a file lets compete (engine/exporter.py:2015)."""
BLOCK = 256
"""Candidates whose overlaps with all others are computed at a time: all with all of 20,000 would take gigabytes."""


def reached(seeds: np.ndarray, due: np.ndarray, source: Candidates, nms: Suppression, room: Room) -> np.ndarray:
    """Which candidates may be suppressed by `seeds`, or by one that may.

    Args:
        seeds: (anchors,) bool: those that a row stands for.
        due: (anchors,) bool: those that it is asked of; when all of them are found it ends.
        source: all candidates.
        nms: the thresholds.
        room: for rounding, of both candidates of a pair.
    """
    best = source.scores.max(axis=1)
    may_be = (source.scores >= best[:, None] - room.score).astype(np.float32)  # (anchors, classes)
    found, front = seeds.copy(), np.flatnonzero(seeds)
    while front.size and (due & ~found).any():
        block, front = front[:BLOCK], front[BLOCK:]
        rest = np.flatnonzero(~found)
        rivalry = source.rivalry(source.boxes[block], source.boxes[rest])
        of_class = nms.agnostic | (may_be[block] @ may_be[rest].T > 0)
        suppresses = of_class & (best[block, None] >= best[rest] - 2 * room.score)
        suppresses &= (rivalry >= nms.iou - room.overlap) & (rivalry > 0)
        new = rest[suppresses.any(axis=0)]
        found[new] = True
        front = np.append(front, new)
    return found


def beaten(rows: np.ndarray, classes: np.ndarray, source: Candidates, nms: Suppression, room: Room) -> np.ndarray:
    """Which rows a candidate should have suppressed that is surely better and of their class, left or not.

    Args:
        rows: (n, 7), as a file gives them.
        classes: (n,) int, those of the rows.
        source: all candidates.
        nms: the thresholds.
        room: for rounding.
    """
    best = source.scores.max(axis=1)
    certain = (source.scores >= best[:, None] - 2 * room.score).sum(axis=1) == 1
    of_class = nms.agnostic | (certain[:, None] & (source.scores.argmax(axis=1)[:, None] == classes))
    better = best[:, None] > rows[:, 4] + room.score
    rivalry = source.rivalry(source.boxes, source.boxes_of(rows))
    return (of_class & better & (rivalry > nms.iou + room.overlap + OVERLAP_ROUNDING)).any(axis=0)


def too_many(source: Candidates, nms: Suppression, room: Room) -> np.ndarray:
    """Which candidates may not have been among those that compete."""
    best, most = source.scores.max(axis=1), COMPETING * nms.max_det
    return best <= np.sort(best)[-most] + 2 * room.score if len(best) > most else np.zeros(len(best), bool)
