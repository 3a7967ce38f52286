# SPDX-License-Identifier: AGPL-3.0-or-later
"""A file that suppresses by itself against its source: both are run over the same pictures, and what the file leaves is judged (left.py)."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from ultralytics.utils.nms import non_max_suppression

from yolov12.export import parity, turned
from yolov12.export.adapter import as_exported
from yolov12.export.candidates import Candidates, Room
from yolov12.export.left import Left, examine
from yolov12.export.parity import Distance, Exported, Image, Parity, ParityError
from yolov12.export.request import Suppression

_Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What the source gives, what the file gives, and the source in float64."""


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
        exported: the file, opened; its first output is (batch, max_det, 6 + n): corners, or where boxes are turned centre, width and height; score,
            class, and what else a box has.
        images: at least one.
        nms: what is in the file.
        room: for rounding.
        with_others: also compare what is neither box nor score, as parity.py does, which only float32 can hold.

    Raises:
        ParityError: a row or a candidate breaks one of the three rules, or the others differ.
    """
    classes = len(cast(Sized, source.names))
    turned_px = max(exported.height_width) if source.task == "obb" else 0
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
            found = Candidates.of(raw, classes, turned_px)
            left = examine(kept, found, nms, room)
            judged.append(left)
            boxes += len(kept)
            mine = left.anchors[left.anchors >= 0]
            others = (
                found.others[mine],
                kept[left.anchors >= 0, 6:],
                Candidates.of(raw_precise, classes, turned_px).others[mine],
            )
            beside.append([others])
        beside[-1] += zip(expected[1:], got[1:], precise[1:], strict=True)
        source_boxes += _left_by_ultralytics(expected[0], classes, nms, rotated=turned_px > 0)
    _require(judged)
    least_iou, largest = min(left.least_iou for left in judged), max(left.largest_score_difference for left in judged)
    others_seen = _others(beside, len(images), exported.height_width) if with_others else None
    return AfterSuppression(boxes, source_boxes, least_iou, largest, others_seen)


def _left_by_ultralytics(output: np.ndarray, classes: int, nms: Suppression, rotated: bool) -> int:
    # Its function for turned boxes compares all with all, so of those no more are given to it than the file lets compete.
    most = {"max_nms": turned.COMPETING * nms.max_det} if rotated else {}
    rows = non_max_suppression(
        torch.from_numpy(output),
        nms.conf,
        nms.iou,
        agnostic=nms.agnostic,
        max_det=nms.max_det,
        nc=classes,
        rotated=rotated,
        **most,
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
