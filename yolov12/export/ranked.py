# SPDX-License-Identifier: AGPL-3.0-or-later
"""A file of a head that needs no NMS (YOLO26 with `nms=False`) against its source: are its rows the best pairs of an anchor and a class?

They come in the order of their scores, which rounding changes; so rows are looked up, and not compared in their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from yolov12.export.adapter import before_it_chooses
from yolov12.export.parity import Exported, Image, ParityError, full_batches
from yolov12.export.seen import SHOWN_SCORE, Tolerance


@dataclass(frozen=True)
class Found:
    """What the rows of one picture are to the pairs, or those of all pictures together."""

    rows: int
    """Above `SHOWN_SCORE`."""
    pairs: int
    """Of the source, above `SHOWN_SCORE`."""
    foreign: int
    """Rows that are no pair, or more than there are."""
    missing: int
    """Pairs that no row is."""
    box_px: float
    """Largest difference of a side of a row's box from that of its pair."""
    score: float


def examine(
    rows: np.ndarray, boxes: np.ndarray, scores: np.ndarray, allowed: Tolerance, agnostic: bool = False
) -> Found:
    """Judge one picture.

    Args:
        rows: (n, 6): corners, score and class, as a file gives them.
        boxes: (anchors, 4): corners in pixels, as the source has them.
        scores: (anchors, classes).
        allowed: for rounding.
        agnostic: an anchor has a row for its best class alone.
    """
    least = rows[:, 4].min()  # what scores less has no row
    shown = rows[~(rows[:, 4] < SHOWN_SCORE)]  # NaN is shown
    anchors, classes = np.nonzero(scores >= SHOWN_SCORE - allowed.score)
    pair_scores = scores[anchors, classes]
    rivals = (scores >= scores.max(axis=1, keepdims=True) - 2 * allowed.score).sum(axis=1)[anchors]
    best = pair_scores == scores.max(axis=1)[anchors]
    is_seen = np.zeros(len(pair_scores), bool)
    least_px, least_score = np.full((2, len(shown)), np.inf)
    for i, row in enumerate(
        shown
    ):  # one by one: a network that is sure of everything has hundreds of thousands of pairs
        differs_px = np.abs(row[:4] - boxes[anchors]).max(axis=1)
        differs = np.abs(row[4] - pair_scores)
        same = (row[5] == classes) & (differs_px <= allowed.box_px) & (differs <= allowed.score)
        is_seen |= same
        least_px[i] = differs_px[same].min(initial=np.inf)
        least_score[i] = differs[same].min(initial=np.inf)
    due = (pair_scores > max(SHOWN_SCORE, least) + allowed.score) & (best & (rivals == 1) | (not agnostic))
    known = np.isfinite(least_px)
    return Found(
        rows=len(shown),
        pairs=int(((pair_scores >= SHOWN_SCORE) & (best | (not agnostic))).sum()),
        foreign=int((~known).sum()) + max(0, len(shown) - len(pair_scores)),
        missing=int((due & ~is_seen).sum()),
        box_px=float(least_px[known].max(initial=0.0)),
        score=float(least_score[known].max(initial=0.0)),
    )


def compare(
    source: torch.nn.Module, exported: Exported, images: Sequence[Image], allowed: Tolerance, agnostic: bool = False
) -> Found:
    """Run both over the same images, and judge.

    Args:
        source: the PyTorch network, copied to the CPU in float32.
        exported: the file, opened; its first output is (batch, max_det, 6).
        images: at least one.
        allowed: for rounding.
        agnostic: an anchor has a row for its best class alone.

    Raises:
        ParityError: a row is none of the source's pairs, or one of them is missing.
    """
    network = before_it_chooses(source)
    found = []
    for pixels in full_batches(exported, images):
        with torch.inference_mode():
            expected = network(torch.from_numpy(pixels)).numpy()
        for rows, pairs in zip(exported.run(pixels)[0].astype(np.float32), expected, strict=True):
            found.append(examine(rows, pairs[:, :4], pairs[:, 4:], allowed, agnostic))
    foreign, missing = sum(one.foreign for one in found), sum(one.missing for one in found)
    if foreign or missing:
        raise ParityError(
            f"The exported model's rows are not those of its source on {len(found)} images: {foreign} are not the source's, {missing} of the "
            "source are missing."
        )
    return Found(
        sum(one.rows for one in found),
        sum(one.pairs for one in found),
        foreign,
        missing,
        max(one.box_px for one in found),
        max(one.score for one in found),
    )
