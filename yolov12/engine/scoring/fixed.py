# SPDX-License-Identifier: AGPL-3.0-or-later
"""Non-maximum suppression in tensors of fixed shapes, so that nothing in it waits for the GPU and a CUDA graph can hold it.

The answer is ultralytics' (utils/nms.py:13 with `multi_label=False`, as predictors call it), or says of itself that it is not: an image with more
candidates than there is room for, or whose suppression has not come to rest after `ROUNDS`, is to be given to `suppression.batched_nms`. At the
confidences that pictures are predicted with, images have tens of candidates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from yolov12.engine.scoring.suppression import CLASS_OFFSET_PX, comparable, is_wanted, overlaps

ROOM = 512
"""Candidates of an image."""
ROUNDS = 8
"""Of "stands, unless one that stands falls on it". Each settles one more link of a chain of boxes in which each suppresses the next."""
_IMAGES_AT_ONCE = 32
"""Overlaps of so many images are held at a time: 32 MiB of float32."""
COLUMNS = 6
"""x1, y1, x2, y2, score, class."""


def fixed_nms(
    prediction: Tensor,
    confidence: float,
    iou: float,
    max_det: int,
    *,
    agnostic: bool = False,
    wanted: Tensor | None = None,
) -> Tensor:
    """Detections of each image and what to know of them, without waiting for the device.

    Args:
        prediction: (images, 4 + classes, anchors), boxes as centre and size in pixels.
        confidence: the best class of a box counts from above this score.
        iou: boxes fall from above this overlap with a better one.
        max_det: detections of an image, at most.
        agnostic: boxes of different classes suppress each other.
        wanted: (n,) the classes that are looked for, on the same device; None for all.

    Returns:
        (images, most + 1, 6) with `most` at most `max_det`: rows of x1, y1, x2, y2, score, class, best first, then zeros. The last row of an image
        is its number of detections, and 1 if they are right, else 0. See `counts_of`.
    """
    parts = prediction.split(_IMAGES_AT_ONCE)
    return torch.cat([_of_some(part, confidence, iou, max_det, agnostic, wanted) for part in parts])


def fixed_end_to_end(prediction: Tensor, confidence: float, max_det: int, *, wanted: Tensor | None = None) -> Tensor:
    """The same for a head that suppresses by itself: its order stays.

    Args:
        prediction: (images, boxes, 6), rows as `fixed_nms` returns them.
    """
    stands = prediction[..., 4] > confidence
    if wanted is not None:
        stands &= is_wanted(prediction[..., 5], wanted)
    right = torch.ones(len(prediction), dtype=torch.bool, device=prediction.device)
    return _packed(prediction.float(), stands, right, max_det)


def counts_of(answer: Tensor) -> list[int] | None:
    """How many detections each image of a `fixed_nms` has; None if one of the images is not right.

    Args:
        answer: on the CPU, else this waits for the device.
    """
    about = answer[:, -1, :2].tolist()
    return [int(count) for count, _ in about] if all(right for _, right in about) else None


def _of_some(
    prediction: Tensor, confidence: float, iou: float, max_det: int, agnostic: bool, wanted: Tensor | None
) -> Tensor:
    best, labels = prediction[:, 4:].max(1)
    passes = best > confidence
    if wanted is not None:
        passes &= is_wanted(labels, wanted)
    room = min(ROOM, passes.shape[1])
    # Stable: of equal scores the earlier comes first, as in torchvision's kernels.
    ranked = best.masked_fill(~passes, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :room]
    found = passes.sum(1)
    candidates = torch.arange(room, device=best.device) < found[:, None]

    boxes = prediction[:, :4].gather(2, ranked[:, None].expand(-1, 4, -1)).transpose(1, 2)
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    score, label = best.gather(1, ranked)[..., None], labels.gather(1, ranked)[..., None].float()
    rows = torch.cat((centre - half, centre + half, score, label), 2)

    placed = rows[..., :4] + rows[..., 5:] * (0 if agnostic else CLASS_OFFSET_PX)
    falls_on = (overlaps(placed, placed) > comparable(iou, placed.device)).triu(diagonal=1)
    stands = candidates
    for _ in range(ROUNDS):
        stands = _following(stands, candidates, falls_on)
    is_settled = (stands == _following(stands, candidates, falls_on)).all(1)
    return _packed(rows, stands, is_settled & (found <= room), max_det)


def _following(stands: Tensor, candidates: Tensor, falls_on: Tensor) -> Tensor:
    """(images, room): candidates on which none of `stands` falls."""
    return candidates & ~(falls_on & stands[:, :, None]).any(1)


def _packed(rows: Tensor, stands: Tensor, right: Tensor, max_det: int) -> Tensor:
    """The first `max_det` rows that stand, moved together, with the row that tells of them."""
    most = min(max_det, rows.shape[1])
    place = stands.cumsum(1) - 1
    stays = stands & (place < most)
    # What does not stay goes where the last row is written over it.
    place = place.masked_fill(~stays, most)[..., None].expand(-1, -1, COLUMNS)
    packed = rows.new_zeros(len(rows), most + 1, COLUMNS).scatter_(1, place, rows)
    packed[:, most].zero_()
    packed[:, most, 0] = stays.sum(1)
    packed[:, most, 1] = right.to(packed.dtype)
    return packed
