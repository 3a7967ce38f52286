# SPDX-License-Identifier: AGPL-3.0-or-later
"""Task-aligned assignment (TOOD, arXiv 2108.07755) as in ultralytics (utils/tal.py:14), with a bound on what it holds at a time.

Upstream keeps some ten tensors of (images, boxes, anchors), padded to the image with the most boxes: 2,000 boxes in one image of sixteen are
over 5 GB. Here images with like numbers of boxes form a chunk, which is padded to its own largest; an image whose boxes alone are too many is
walked through in blocks of boxes. Both work because little outlives a block. After conflicts are settled an anchor has one box at most, so what
is kept per anchor is two pairs: the box that chose it, and the box that it overlaps most, which wins where several chose it.
The arithmetic of a pair is upstream's own, called on the same values. On CUDA the results are upstream's to the bit. On the CPU, too, in a
single slice and chunk; in several, the last bit of a metric may differ: there `pow` rounds the last few elements of an array in another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from ultralytics.utils.tal import TaskAlignedAssigner

CHUNK_BYTES = 3 * 2**29
"""80 million pairs of box and anchor: what 256 images of COCO need in one chunk, for each chunk costs a millisecond of launches. A small card
trains few images at once and stays far below."""

# What is alive at most, by the largest tensors' element sizes; a test holds these against what is measured.
BYTES_PER_PAIR = 18
"""Of a box and an anchor: overlap 4, metric 4, inside or not 1, its index among the candidates 8 (if all are), chosen or not 1."""
BYTES_PER_ANCHOR = 80
"""Of an image and an anchor: its two pairs (8 + 4 + 4 each), as they are merged with the next block's, and the index of a maximum."""
BYTES_PER_CANDIDATE = 160
"""Of a pair whose overlap is being computed: five indices of 8, two boxes of 16, and CIoU's temporaries."""
CANDIDATES_SHARE = 4
"""One part in this many of the bound is for the candidates' arithmetic, the rest for pairs and anchors."""


class Targets(NamedTuple):
    """What `TaskAlignedAssigner.forward` returns."""

    labels: Tensor
    """(images, anchors), int64."""
    bboxes: Tensor
    """(images, anchors, 4), xyxy in pixels."""
    scores: Tensor
    """(images, anchors, classes)."""
    foreground: Tensor
    """(images, anchors), bool."""
    box_index: Tensor
    """(images, anchors), int64: which of the image's boxes."""


class Chunk(NamedTuple):
    """Images that are assigned together."""

    images: list[int]
    boxes: int
    """Boxes to which these images are padded, at least 1."""


class Pair(NamedTuple):
    """One box per anchor, each field (images, anchors)."""

    box: Tensor
    overlap: Tensor
    metric: Tensor


class Found(NamedTuple):
    """What is known of each anchor after some of the boxes."""

    choices: Tensor
    """How many boxes chose it, (images, anchors)."""
    chosen: Pair
    """The first box that did."""
    nearest: Pair
    """The first of the boxes with the largest overlap, whether it chose the anchor or not."""
    poison: Tensor
    """(images, 1): 0, or NaN if any metric of the image is NaN, which upstream's sums carry into all of the image's scores."""


def fits(images: int, boxes: int, anchors: int, chunk_bytes: int) -> bool:
    """Whether so many images, padded to so many boxes, can be assigned at once."""
    room = chunk_bytes - chunk_bytes // CANDIDATES_SHARE
    return images * anchors * (BYTES_PER_ANCHOR + boxes * BYTES_PER_PAIR) <= room


def plan_chunks(boxes_per_image: list[int], anchors: int, chunk_bytes: int) -> list[Chunk]:
    """Images by falling number of boxes, in chunks that fit; an image that does not fit alone is a chunk alone."""
    chunks: list[Chunk] = []
    for image in sorted(range(len(boxes_per_image)), key=lambda i: -boxes_per_image[i]):
        if chunks and fits(len(chunks[-1].images) + 1, chunks[-1].boxes, anchors, chunk_bytes):
            chunks[-1].images.append(image)
        else:
            chunks.append(Chunk([image], max(boxes_per_image[image], 1)))
    return chunks


def boxes_per_block(chunk: Chunk, anchors: int, chunk_bytes: int) -> int:
    """How many of a chunk's boxes can be looked at together: all, unless it is one image that does not fit."""
    if fits(len(chunk.images), chunk.boxes, anchors, chunk_bytes):
        return chunk.boxes
    room = chunk_bytes - chunk_bytes // CANDIDATES_SHARE
    return max((room // anchors - BYTES_PER_ANCHOR) // BYTES_PER_PAIR, 1)


class Assignment:
    """One call of an assigner, on its arguments (utils/tal.py:63)."""

    def __init__(
        self, assigner: TaskAlignedAssigner, pd_scores: Tensor, pd_bboxes: Tensor, anc_points: Tensor, chunk_bytes: int
    ) -> None:
        self.assigner = assigner
        self.scores, self.bboxes, self.points = pd_scores, pd_bboxes, anc_points
        self.chunk_bytes = chunk_bytes
        # A multiple of any vector's length, so that only the last slice has an odd end.
        self.slice = max(chunk_bytes // CANDIDATES_SHARE // BYTES_PER_CANDIDATE // 1024, 1) * 1024

    def __call__(self, gt_labels: Tensor, gt_bboxes: Tensor, mask_gt: Tensor) -> Targets:
        labels = gt_labels.squeeze(-1).long()
        box_index, foreground, weight = self._match(labels, gt_bboxes, mask_gt)
        target_labels = labels.gather(1, box_index).clamp_(0)
        scores = weight.new_zeros((*weight.shape, self.assigner.num_classes))
        # A one, and then the weight: scattering the weights would take a sort where torch is asked for determinism.
        scores.scatter_(2, target_labels.unsqueeze(-1), 1).mul_(weight.unsqueeze(-1))
        bboxes = gt_bboxes.gather(1, box_index.unsqueeze(-1).expand(-1, -1, gt_bboxes.shape[-1]))
        return Targets(target_labels, bboxes, scores, foreground, box_index)

    def _match(self, labels: Tensor, gt_bboxes: Tensor, mask_gt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(box, whether there is one, weight of its class) of each anchor, each (images, anchors)."""
        images, boxes, anchors = *labels.shape, len(self.points)
        if fits(images, boxes, anchors, self.chunk_bytes):
            return self._match_chunk(Chunk(list(range(images)), boxes), slice(None), labels, gt_bboxes, mask_gt)
        numbered = torch.arange(1, boxes + 1, device=mask_gt.device) * mask_gt.squeeze(-1).bool()
        # The one wait for the GPU beside those for candidates, and only here: it spares most of the padding.
        chunks = plan_chunks(numbered.amax(1).tolist(), anchors, self.chunk_bytes)
        order = torch.tensor([image for chunk in chunks for image in chunk.images], device=labels.device)
        parts, start = [], 0
        for chunk in chunks:
            at, start = order[start : start + len(chunk.images)], start + len(chunk.images)
            padded = (at, slice(chunk.boxes))
            parts.append(self._match_chunk(chunk, at, labels[padded], gt_bboxes[padded], mask_gt[padded]))
        back = order.argsort()
        box_index, foreground, weight = (torch.cat(part)[back] for part in zip(*parts, strict=True))
        return box_index, foreground, weight

    def _match_chunk(
        self, chunk: Chunk, images: Tensor | slice, labels: Tensor, gt_bboxes: Tensor, mask_gt: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `_match`, for the images of a chunk; `images` are their places in the batch, the rest is theirs already."""
        block = boxes_per_block(chunk, len(self.points), self.chunk_bytes)
        found: Found | None = None
        for first in range(0, chunk.boxes, block):
            some = (slice(None), slice(first, first + block))
            new = self._look(images, first, labels[some], gt_bboxes[some], mask_gt[some])
            found = new if found is None else _merged(found, new)
        assert found is not None  # a chunk has at least one box
        return _settled(found, chunk.boxes, self.assigner.eps)

    def _look(self, images: Tensor | slice, first: int, labels: Tensor, gt_bboxes: Tensor, mask_gt: Tensor) -> Found:
        """What the boxes of one block, numbered from `first`, say of each anchor."""
        inside = self.assigner.select_candidates_in_gts(self.points, gt_bboxes, mask_gt)
        inside &= mask_gt.bool()
        overlaps, metrics = self._pairs(images, inside, labels, gt_bboxes)
        best, at = metrics.topk(self.assigner.topk)
        chosen = torch.zeros(inside.shape, dtype=torch.int8, device=inside.device).scatter_(2, at, 1).mul_(inside)
        del inside

        def pair(box: Tensor) -> Pair:
            at = box.unsqueeze(1)
            return Pair(box + first, overlaps.gather(1, at).squeeze(1), metrics.gather(1, at).squeeze(1))

        # A NaN is the largest of its row to topk.
        poison = (best[..., 0] * 0).sum(1, keepdim=True)
        return Found(
            chosen.sum(1, dtype=torch.int32), pair(chosen.max(1).indices), pair(overlaps.max(1).indices), poison
        )

    def _pairs(
        self, images: Tensor | slice, inside: Tensor, labels: Tensor, gt_bboxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(overlap, metric) of each box with each anchor inside it, 0 elsewhere, both (images, boxes, anchors)."""
        overlaps = torch.zeros(inside.shape, dtype=self.bboxes.dtype, device=inside.device)
        metrics: Tensor | None = None
        for at, overlap, metric in self._candidates(images, inside, labels.flatten(), gt_bboxes.flatten(0, 1)):
            if metrics is None:  # its dtype is autocast's affair
                metrics = torch.zeros(inside.shape, dtype=metric.dtype, device=inside.device)
            overlaps.view(-1)[at], metrics.view(-1)[at] = overlap, metric
        assert metrics is not None  # no candidates are one slice, an empty one
        return overlaps, metrics

    def _candidates(
        self, images: Tensor | slice, inside: Tensor, labels: Tensor, gt_bboxes: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(place in the flattened pairs, overlap, metric) of the pairs that are `inside`, slice by slice."""
        _, boxes, anchors = inside.shape
        for at in inside.view(-1).nonzero().squeeze(1).split(self.slice):  # waits for the GPU once, as upstream does
            row, anchor = at // anchors, at % anchors
            image = row // boxes if isinstance(images, slice) else images[row // boxes]
            overlap = self.assigner.iou_calculation(gt_bboxes[row], self.bboxes[image, anchor])
            score = self.scores[image, anchor, labels[row]]
            yield at, overlap, score.pow(self.assigner.alpha) * overlap.pow(self.assigner.beta)


def _either(condition: Tensor, yes: Pair, no: Pair) -> Pair:
    return Pair(*(torch.where(condition, a, b) for a, b in zip(yes, no, strict=True)))


def _merged(earlier: Found, later: Found) -> Found:
    """What both blocks say; where they say the same, the earlier one's boxes have the lower numbers and win."""
    return Found(
        earlier.choices + later.choices,
        _either(earlier.choices > 0, earlier.chosen, later.chosen),
        _either(later.nearest.overlap > earlier.nearest.overlap, later.nearest, earlier.nearest),
        earlier.poison + later.poison,
    )


def _settled(found: Found, boxes: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(box, whether there is one, weight of its class) of each anchor (utils/tal.py:166, and 375 for the conflicts)."""
    foreground = found.choices > 0
    box, overlap, metric = (field * foreground for field in _either(found.choices > 1, found.nearest, found.chosen))

    def largest_of_box(value: Tensor) -> Tensor:
        return value.new_zeros(len(value), boxes).scatter_reduce_(1, box, value, "amax").gather(1, box)

    weight = metric * largest_of_box(overlap) / (largest_of_box(metric) + eps)
    return box, foreground, weight + found.poison


@torch.no_grad()
def assign(
    assigner: TaskAlignedAssigner,
    pd_scores: Tensor,
    pd_bboxes: Tensor,
    anc_points: Tensor,
    gt_labels: Tensor,
    gt_bboxes: Tensor,
    mask_gt: Tensor,
    chunk_bytes: int = CHUNK_BYTES,
) -> Targets:
    """The targets of each anchor; arguments and results are those of upstream's `forward` (utils/tal.py:63), for at least one box.

    pd_scores (images, anchors, classes), pd_bboxes (images, anchors, 4), anc_points (anchors, 2), gt_labels (images, boxes, 1),
    gt_bboxes (images, boxes, 4), mask_gt (images, boxes, 1); boxes in xyxy pixels. Of memory beside the results it takes at most `chunk_bytes`,
    and what a single box with all anchors takes if that is more.
    """
    return Assignment(assigner, pd_scores, pd_bboxes, anc_points, chunk_bytes)(gt_labels, gt_bboxes, mask_gt)
