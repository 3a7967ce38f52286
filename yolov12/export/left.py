# SPDX-License-Identifier: AGPL-3.0-or-later
"""Are the boxes that are left after suppression ones that suppression leaves of its candidates?

Two lists of boxes that are left can not be compared with each other. Where two classes of an anchor score the same, or an overlap is the threshold
itself, the last bit of a float32 says which box goes, and the next ones follow from it: an untrained network gives several classes a score of 1, and
even its own float64 leaves other boxes than its float32. What greedy suppression left can be judged without doing it again, since it is the set for
which

1. every row is a candidate, with its best class,
2. no two rows of a class overlap by more than the threshold, and
3. every candidate overlaps by more than it with a row of its class that scores at least as much (a row does so with itself), or came after `max_det`.

Boxes with an angle are not suppressed greedily: what went still takes others with it (turned.py). There the second rule also holds for a row and a
better candidate, and the third for a row that is reached over such candidates.

Each is looked at with the room that rounding needs, candidate by candidate, so that nothing follows from a tie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolov12.export import turned
from yolov12.export.candidates import OVERLAP_ROUNDING, Candidates, Room
from yolov12.export.request import Suppression


@dataclass(frozen=True)
class Left:
    """What the rows of one picture are to the candidates."""

    anchors: np.ndarray
    """(rows,): which candidate each is; -1 for none."""
    least_iou: float
    """Of rows and their candidates; 1.0 without any."""
    largest_score_difference: float
    foreign: int
    """Rows that are no candidate."""
    overlapping: int
    """Rows that an earlier one should have suppressed."""
    missing: int
    """Candidates that no row stands for."""


def examine(rows: np.ndarray, source: Candidates, nms: Suppression, room: Room) -> Left:
    """Judge one picture.

    Args:
        rows: (n, >= 6): box, score, class and what else there is, without filling.
        source: all that the rows were chosen from.
        nms: the thresholds.
        room: for rounding.
    """
    if not len(rows):
        return Left(np.empty(0, int), 1.0, 0.0, 0, 0, int((source.scores.max(axis=1) > nms.conf + room.score).sum()))
    # All other anchors are nothing to anyone, and a large picture has tens of thousands.
    could_be = np.flatnonzero(source.scores.max(axis=1) >= nms.conf - 2 * room.score)
    source = source.only(could_be)
    count = source.scores.shape[1]
    classes = np.clip(np.nan_to_num(rows[:, 5], nan=-1), -1, count).astype(int)
    known = (classes == rows[:, 5]) & (classes >= 0) & (classes < count)
    best = source.scores.max(axis=1, keepdims=True)
    score = source.scores[:, np.where(known, classes, 0)]  # (anchors, rows): of the row's class
    of_class = known & (score >= best - room.score)
    boxes = source.boxes_of(rows)
    likeness = source.likeness(boxes)
    fits = of_class & (np.abs(score - rows[:, 4]) <= room.score) & (likeness >= room.least_iou)
    fits &= rows[:, 4] >= nms.conf - room.score
    if source.turned:
        fits &= np.abs(source.boxes[:, None, -1] - boxes[:, -1]) <= room.angle  # a square has all of them alike
    places = np.array([_nearest(index, row, fits, likeness, source) for index, row in enumerate(rows)])
    mine, index = places[places >= 0], np.flatnonzero(places >= 0)
    anchors = np.full(len(rows), -1)
    anchors[index] = could_be[mine]

    rivalry = source.rivalry(source.boxes, boxes)
    least = min(nms.iou - room.overlap, room.least_iou)
    stands_for = (of_class | nms.agnostic) & (rows[:, 4] >= best - room.score) & (rivalry >= least) & (rivalry > 0)
    rivals = np.triu(nms.agnostic | (classes[:, None] == classes), k=1)
    too_close = (rivals & (source.rivalry(boxes, boxes) > nms.iou + OVERLAP_ROUNDING)).any(axis=0)
    after_last = (len(rows) == nms.max_det) & (best[:, 0] <= rows[:, 4].min() + room.score)
    due = (best[:, 0] > nms.conf + room.score) & ~after_last
    stands_for_it = stands_for.any(axis=1)
    if source.turned:
        too_close |= turned.beaten(rows, classes, source, nms, room)
        due &= ~turned.too_many(source, nms, room)
        stands_for_it = turned.reached(stands_for_it, due, source, nms, room)
    return Left(
        anchors=anchors,
        least_iou=float(likeness[mine, index].min(initial=1.0)),
        largest_score_difference=float(np.abs(score[mine, index] - rows[index, 4]).max(initial=0.0)),
        foreign=len(rows) - len(index),
        overlapping=int(too_close.sum()),
        missing=int((due & ~stands_for_it).sum()),
    )


def _nearest(index: int, row: np.ndarray, fits: np.ndarray, likeness: np.ndarray, source: Candidates) -> int:
    """The candidate that a row is: of those in its place the one with the most alike others, or without others the closest; -1 for none."""
    places = np.flatnonzero(fits[:, index])
    if not len(places):
        return -1
    if not source.others.shape[1]:
        return int(places[likeness[places, index].argmax()])
    return int(places[np.abs(source.others[places] - row[6:]).max(axis=1).argmin()])
