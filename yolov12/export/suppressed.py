# SPDX-License-Identifier: AGPL-3.0-or-later
"""Are the boxes that a file leaves after suppression ones that suppression leaves of its source's candidates?

Two lists of boxes that are left can not be compared with each other. Where two classes of an anchor score the same, or an overlap is the threshold
itself, the last bit of a float32 says which box goes, and the next ones follow from it: an untrained network gives several classes a score of 1, and
even its own float64 leaves other boxes than its float32. What greedy suppression left can be judged without doing it again, since it is the set for
which

1. every row is a candidate, with its best class,
2. no two rows of a class overlap by more than the threshold, and
3. every candidate overlaps by more than it with a row of its class that scores at least as much (a row does so with itself), or came after `max_det`.

Each is looked at with the room that rounding needs, candidate by candidate, so that nothing follows from a tie.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from ultralytics.utils.nms import non_max_suppression

from yolov12.export import parity
from yolov12.export.adapter import as_exported
from yolov12.export.boxes import pairwise_iou
from yolov12.export.parity import Distance, Exported, Image, Parity, ParityError
from yolov12.export.request import Suppression

TASKS = ("detect", "segment", "pose")
"""What is judged here. Boxes of obb are turned, and ultralytics suppresses them by another function (engine/exporter.py:2030)."""

OVERLAP_ROUNDING = 0.02
"""How far from the threshold two rows of the file itself may overlap: whatever rounded its network, they are what it suppressed, offset by class."""

_Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What the source gives, what the file gives, and the source in float64."""


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


@dataclass(frozen=True)
class Candidates:
    """What the source's head says of one picture."""

    boxes: np.ndarray
    """(anchors, 4): x1, y1, x2, y2 in pixels of the input."""
    scores: np.ndarray
    """(anchors, classes)."""
    others: np.ndarray
    """(anchors, n): coefficients of masks, or keypoints."""

    @staticmethod
    def of(output: np.ndarray, classes: int) -> Candidates:
        """From (4 + classes + n, anchors), with centre, width and height in front."""
        boxes, scores, others = np.split(output.T, [4, 4 + classes], axis=1)
        half = boxes[:, 2:] / 2
        return Candidates(np.hstack([boxes[:, :2] - half, boxes[:, :2] + half]), scores, others)


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


@dataclass(frozen=True)
class AfterSuppression:
    """All pictures together."""

    boxes: int
    """Rows of the file."""
    source_boxes: int
    """Rows that ultralytics' own function leaves of the source's candidates."""
    least_iou: float
    largest_score_difference: float
    others: Parity | None
    """What a row has behind its class and what else the file gives; None where that is nothing, or rounded to less than float32."""


def examine(rows: np.ndarray, source: Candidates, nms: Suppression, room: Room) -> Left:
    """Judge one picture.

    Args:
        rows: (n, >= 6): corners, score, class and what else there is, without filling.
        source: all that the rows were chosen from.
        nms: the thresholds.
        room: for rounding.
    """
    if not len(rows):
        return Left(np.empty(0, int), 1.0, 0.0, 0, 0, int((source.scores.max(axis=1) > nms.conf + room.score).sum()))
    # All other anchors are nothing to anyone, and a large picture has tens of thousands.
    could_be = np.flatnonzero(source.scores.max(axis=1) >= nms.conf - 2 * room.score)
    source = Candidates(source.boxes[could_be], source.scores[could_be], source.others[could_be])
    count = source.scores.shape[1]
    classes = np.clip(np.nan_to_num(rows[:, 5], nan=-1), -1, count).astype(int)
    known = (classes == rows[:, 5]) & (classes >= 0) & (classes < count)
    best = source.scores.max(axis=1, keepdims=True)
    score = source.scores[:, np.where(known, classes, 0)]  # (anchors, rows): of the row's class
    of_class = known & (score >= best - room.score)
    overlap = pairwise_iou(source.boxes, rows)
    fits = of_class & (np.abs(score - rows[:, 4]) <= room.score) & (overlap >= room.least_iou)
    fits &= rows[:, 4] >= nms.conf - room.score
    places = np.array([_nearest(index, row, fits, overlap, source) for index, row in enumerate(rows)])
    mine, index = places[places >= 0], np.flatnonzero(places >= 0)
    anchors = np.full(len(rows), -1)
    anchors[index] = could_be[mine]

    least = min(nms.iou - room.overlap, room.least_iou)
    stands_for = (of_class | nms.agnostic) & (rows[:, 4] >= best - room.score) & (overlap >= least) & (overlap > 0)
    after_last = (len(rows) == nms.max_det) & (best[:, 0] <= rows[:, 4].min() + room.score)
    missing = (best[:, 0] > nms.conf + room.score) & ~stands_for.any(axis=1) & ~after_last
    rivals = np.triu(nms.agnostic | (classes[:, None] == classes), k=1)
    return Left(
        anchors=anchors,
        least_iou=float(overlap[mine, index].min(initial=1.0)),
        largest_score_difference=float(np.abs(score[mine, index] - rows[index, 4]).max(initial=0.0)),
        foreign=len(rows) - len(index),
        overlapping=int((rivals & (pairwise_iou(rows, rows) > nms.iou + OVERLAP_ROUNDING)).any(axis=0).sum()),
        missing=int(missing.sum()),
    )


def _nearest(index: int, row: np.ndarray, fits: np.ndarray, overlap: np.ndarray, source: Candidates) -> int:
    """The candidate that a row is: of those in its place the one with the most alike others, or without others the closest; -1 for none."""
    places = np.flatnonzero(fits[:, index])
    if not len(places):
        return -1
    if not source.others.shape[1]:
        return int(places[overlap[places, index].argmax()])
    return int(places[np.abs(source.others[places] - row[6:]).max(axis=1).argmin()])


def compare(
    source: torch.nn.Module,
    exported: Exported,
    images: Sequence[Image],
    nms: Suppression,
    room: Room,
    with_others: bool,
) -> AfterSuppression:
    """Run both over the same images, and judge.

    Args:
        source: the PyTorch network, copied to the CPU in float32.
        exported: the file, opened; its first output is (batch, max_det, 6 + n).
        images: at least one.
        nms: what is in the file.
        room: for rounding.
        with_others: also compare what is neither box nor score, as parity.py does, which only float32 can hold.

    Raises:
        ParityError: a row or a candidate breaks one of the three rules, or the others differ.
    """
    classes = len(cast(Sized, source.names))
    reference, exact = as_exported(source), as_exported(source).double() if with_others else None
    judged: list[Left] = []
    beside: list[list[_Triple]] = []
    boxes = source_boxes = 0
    for pixels in parity.full_batches(exported, images):
        with torch.inference_mode():
            expected = parity.tensors(reference(torch.from_numpy(pixels)))
            precise = parity.tensors(exact(torch.from_numpy(pixels).double())) if exact else expected
        got = exported.run(pixels)
        for raw, raw_precise, rows in zip(expected[0], precise[0], got[0].astype(np.float32), strict=True):
            kept = rows[rows[:, 4] != 0]  # what fills up to max_det is 0
            found = Candidates.of(raw, classes)
            left = examine(kept, found, nms, room)
            judged.append(left)
            boxes += len(kept)
            mine = left.anchors[left.anchors >= 0]
            others = (found.others[mine], kept[left.anchors >= 0, 6:], Candidates.of(raw_precise, classes).others[mine])
            beside.append([others])
        beside[-1] += zip(expected[1:], got[1:], precise[1:], strict=True)
        source_boxes += _left_by_ultralytics(expected[0], classes, nms)
    _require(judged)
    least_iou, largest = min(left.least_iou for left in judged), max(left.largest_score_difference for left in judged)
    others_seen = _others(beside, len(images), exported.height_width) if with_others else None
    return AfterSuppression(boxes, source_boxes, least_iou, largest, others_seen)


def _left_by_ultralytics(output: np.ndarray, classes: int, nms: Suppression) -> int:
    rows = non_max_suppression(
        torch.from_numpy(output), nms.conf, nms.iou, agnostic=nms.agnostic, max_det=nms.max_det, nc=classes
    )
    return sum(map(len, rows))


def _others(beside: list[list[_Triple]], images: int, height_width: tuple[int, int]) -> Parity | None:
    found: list[Distance] = []
    for triples in beside:
        for index, triple in enumerate(triples):
            name = f"output{index}" if index else "what belongs to a box"
            found += parity.distance(name, *triple)
    return parity.require_raw(Parity(tuple(found), (), images, height_width)) if found else None


def _require(judged: Sequence[Left]) -> None:
    """Refuse what is not what suppression leaves.

    Raises:
        ParityError: how many boxes of which kind, on how many pictures.
    """
    counted = {
        "are not the source's": sum(left.foreign for left in judged),
        "should have been suppressed": sum(left.overlapping for left in judged),
        "of the source are missing": sum(left.missing for left in judged),
    }
    if wrong := [f"{count} {what}" for what, count in counted.items() if count]:
        raise ParityError(
            f"The exported model's boxes are not those of its source on {len(judged)} images: {', '.join(wrong)}."
        )
