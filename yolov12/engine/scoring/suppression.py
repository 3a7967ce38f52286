# SPDX-License-Identifier: AGPL-3.0-or-later
"""Non-maximum suppression of a whole batch, with the answers of ultralytics' loop over images (utils/nms.py:13).

Greedy suppression looks sequential: a box falls if a better one that stands overlaps it. Here the candidates of all images go through it in
blocks of the best 256, then the next 256, and so on. A block is first held against what already stands; what is left of it is settled by
repeating "stands, unless one that stands falls on it" until nothing changes, which ends at the greedy answer, since with each round at least
one more box from the top is right for good (as in Cluster-NMS, arXiv:2005.03572, section 3.2). An image that has its `limit` boxes drops
out, so most candidates are never compared.

Coordinates carry ultralytics' offset of 7,680 px per class, since it rounds them in float32, and the overlap is computed as torchvision's
kernels do, so that borderline pairs fall on the same side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from yolov12.engine.scoring import survive

CLASS_OFFSET_PX = 7680
CANDIDATES_PER_IMAGE = 30_000
BLOCK = 256
_PAIRS_AT_ONCE = 2**23
"""Overlaps held at a time, 32 MiB of float32 each: about sixty images at the default `max_det`. Larger batches are worked through in parts."""
_CANDIDATES_AT_ONCE = 2**22
"""Scores above the threshold that are worked on at a time, 90 bytes for each: 360 MiB. All may be, of an untrained network in a validation: 672,000
in an image of 640 px with 80 classes."""


def batched_nms(
    prediction: Tensor,
    confidence: float,
    iou: float,
    *,
    classes: int = 0,
    multi_label: bool = True,
    agnostic: bool = False,
    max_det: int = 300,
    max_nms: int = CANDIDATES_PER_IMAGE,
    wanted: Tensor | None = None,
) -> tuple[Tensor, list[int]]:
    """What `ultralytics.utils.nms.non_max_suppression` finds, in one tensor.

    It has no time limit. Where ultralytics leaves the order of equal scores open (more than `max_nms` candidates), the earlier stays.

    Args:
        prediction: (images, 4 + classes + extra, anchors), boxes as centre and size in pixels.
        confidence: a class counts from above this score.
        iou: boxes fall from above this overlap with a better one.
        classes: 0 means all channels after the box.
        multi_label: a box may have several classes.
        agnostic: boxes of different classes suppress each other.
        wanted: (n,) the classes that are looked for, on the same device; None for all.

    Returns:
        (n, 6 + extra) rows of x1, y1, x2, y2, score, class, extra, image by image, best first; and how many each image has.
    """
    classes = classes or prediction.shape[1] - 4
    offset_px = 0 if agnostic else CLASS_OFFSET_PX
    parts = []
    for some in prediction.split(_sizes(prediction[:, 4 : 4 + classes], confidence, (max_det + BLOCK) * BLOCK)):
        rows, image = _candidates(some, confidence, classes, multi_label, wanted)
        ranked, lengths = _ranked(rows[:, 4], image, len(some), max_nms)
        kept, found = _survivors(rows[:, :4] + rows[:, 5:6] * offset_px, ranked, lengths, iou, max_det)
        parts.append((rows[kept], found))
    return torch.cat([rows for rows, _ in parts]), [count for _, counts in parts for count in counts]


def _sizes(scores: Tensor, confidence: float, pairs: int) -> list[int]:
    """Of the parts of a batch: as many images as there is room for, in their order. Each has as much room as the one with the most candidates.

    Args:
        scores: (images, classes, anchors).
        confidence: a score counts from above it.
        pairs: overlaps that an image asks for at a time.
    """
    most = max(1, _PAIRS_AT_ONCE // pairs)
    # Where there is room for all of them, nobody needs to know how many there are.
    candidates = [0] * len(scores)
    if scores.numel() > _CANDIDATES_AT_ONCE:
        candidates = (scores > confidence).sum((1, 2)).tolist()
    sizes: list[int] = []
    longest = 0
    for of_image in candidates:
        longest = max(longest, of_image)
        if not sizes or sizes[-1] == most or (sizes[-1] + 1) * longest > _CANDIDATES_AT_ONCE:
            sizes.append(0)
            longest = of_image
        sizes[-1] += 1
    return sizes


def end_to_end(prediction: Tensor, confidence: float, max_det: int) -> tuple[Tensor, list[int]]:
    """The same for a head that suppresses by itself: the first `max_det` of each image above `confidence`, in the head's order.

    Args:
        prediction: (images, boxes, 6 + extra), already rows as `batched_nms` returns them.
    """
    mask = prediction[..., 4] > confidence
    mask &= mask.cumsum(1) <= max_det
    return prediction[mask].float(), mask.sum(1).tolist()


def _candidates(
    prediction: Tensor, confidence: float, classes: int, multi_label: bool, wanted: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Rows of everything above `confidence` in the order of image, anchor, class; and the image of each."""
    prediction = prediction.transpose(1, 2)
    scores = prediction[..., 4 : 4 + classes]
    if multi_label and classes > 1:
        passes = scores > confidence
        if wanted is not None:
            passes &= is_wanted(torch.arange(classes, device=wanted.device), wanted)
        image, anchor, label = torch.where(passes)
        score = scores[image, anchor, label]
    else:
        best, labels = scores.max(2)
        passes = best > confidence
        if wanted is not None:
            passes &= is_wanted(labels, wanted)
        image, anchor = torch.where(passes)
        score, label = best[image, anchor], labels[image, anchor]
    centre, half = prediction[..., :2][image, anchor], prediction[..., 2:4][image, anchor] / 2
    extra = prediction[..., 4 + classes :][image, anchor]
    columns = (centre - half, centre + half, score[:, None], label[:, None].float(), extra)
    return torch.cat(columns, 1), image.contiguous()


def is_wanted(labels: Tensor, wanted: Tensor) -> Tensor:
    """Which of the labels are among the wanted; labels of any shape, wanted (n,)."""
    return (labels[..., None] == wanted).any(-1)


def _ranked(scores: Tensor, image: Tensor, images: int, most: int) -> tuple[Tensor, list[int]]:
    """(images, n) indices into `scores`, best first, and how many count in each image, at most `most`; the rest are anything valid."""
    edges = torch.searchsorted(image, torch.arange(images + 1, device=image.device))
    begins = edges[:-1]
    lengths = edges.diff().tolist()  # waits for the GPU, once for all images
    padded = scores.new_full((images, max(lengths)), -torch.inf)
    padded[image, torch.arange(len(scores), device=image.device) - begins[image]] = scores
    order = padded.sort(dim=1, descending=True, stable=True).indices[:, :most]
    return (begins[:, None] + order).clamp_(max=max(len(scores) - 1, 0)), [min(length, most) for length in lengths]


def _survivors(
    boxes: Tensor, ranked: Tensor, lengths: Sequence[int], threshold: float, limit: int
) -> tuple[Tensor, list[int]]:
    """Which boxes stand, image after image and best first, and how many in each image.

    Args:
        boxes: (n, 4) corners.
        ranked: (images, most) indices into `boxes`, best first; beyond an image's length they may be anything valid.
        lengths: how many of them count.
        limit: at most so many stand in an image.
    """
    threshold = comparable(threshold, boxes.device)
    if survive.serves(boxes, limit):
        return survive.survivors(boxes, ranked, list(lengths), threshold, limit)
    images, most = ranked.shape
    # One column more than may stand takes what comes too late.
    kept = ranked.new_full((images, limit + 1), -1)
    counts = ranked.new_zeros(images)
    found = [0] * images
    for begin in range(0, most, BLOCK):
        open_images = [i for i in range(images) if found[i] < limit and lengths[i] > begin]
        if not open_images:
            break
        these = torch.tensor(open_images, device=boxes.device)
        block = ranked[these, begin : begin + BLOCK]
        length = torch.tensor([lengths[i] - begin for i in open_images], device=boxes.device)
        stands = torch.arange(block.shape[1], device=boxes.device) < length[:, None]
        corners = boxes[block]
        if standing := max(found[i] for i in open_images):
            better = kept[these, :standing]
            hits = (overlaps(boxes[better.clamp(min=0)], corners) > threshold) & (better >= 0)[:, :, None]
            stands &= ~hits.any(1)
        stands = _settled(stands, (overlaps(corners, corners) > threshold).triu(diagonal=1))
        place = (counts[these, None] + stands.cumsum(1) - 1).clamp_(max=limit)
        place[~stands] = limit
        kept[these[:, None], place] = block
        kept[:, limit] = -1
        counts[these] = (counts[these] + stands.sum(1)).clamp_(max=limit)
        found = counts.tolist()  # waits for the GPU, once for a block of all images
    return kept[kept >= 0], found


def _settled(candidates: Tensor, falls_on: Tensor) -> Tensor:
    """The greedy answer inside one block.

    Args:
        candidates: (images, block) which are still in question.
        falls_on: (images, block, block) whether the one of the row, if it stands, makes the one of the column fall; zero below the diagonal.
    """
    weights = falls_on.float()
    stands = candidates
    while True:
        hits = torch.bmm(stands[:, None].float(), weights)[:, 0] > 0
        following = candidates & ~hits
        if torch.equal(following, stands):
            return stands
        stands = following


def overlaps(better: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of each pair, (images, n, m), in the order of operations of torchvision's NMS kernels."""
    ax1, ay1, ax2, ay2 = better[:, :, None].unbind(-1)
    bx1, by1, bx2, by2 = other[:, None].unbind(-1)
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp_(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp_(min=0)
    shared = width.mul_(height)
    return shared / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared)


def comparable(threshold: float, device: torch.device) -> float:
    """A threshold that a float32 overlap exceeds in torch if it does in torchvision's kernel for the device.

    The one for the CPU compares with the double: 0.6 in float32 is above 0.6. The one for CUDA rounds the threshold first, as torch does.
    """
    rounded = np.float32(threshold)
    if device.type == "cpu" and float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-1))
    return float(rounded)
