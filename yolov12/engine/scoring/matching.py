# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which detection gets which labelled object, for a whole data set at once, by ultralytics' greedy rule (engine/validator.py:321).

There, the detections of an image take turns, best first, and each claims the free object that it overlaps most, if enough. Only pairs that
overlap enough matter, a few for each object, so those are collected on the device, batch by batch (`overlapping`), and matched afterwards
on the CPU (`greedy`): in each round every detection that no better one can stop gets its object, at all places of the data set together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]

_EPSILON = 1e-7
"""Of ultralytics' box_iou (utils/metrics.py:85)."""
_PAIRS_AT_ONCE = 2**20
"""Overlaps held at a time, 4 MiB of float32 each."""


class Pairs(NamedTuple):
    """Detections and objects that overlap, as three tensors of one length."""

    detection: Tensor
    target: Tensor
    iou: Tensor


def overlapping(
    detections: Tensor,
    detection_counts: list[int],
    targets: Tensor,
    target_counts: list[int],
    least_iou: float,
    detection_classes: Tensor | None = None,
    target_classes: Tensor | None = None,
) -> Pairs:
    """All pairs within an image that overlap by at least `least_iou`; with classes, only pairs of one class.

    Args:
        detections: (n, 4) corners, image by image.
        detection_counts: how many each image has.
        targets: (m, 4) corners, image by image, in the same coordinates.

    Returns:
        Indices into `detections` and `targets`.
    """
    images, widest, tallest = len(detection_counts), max(detection_counts), max(target_counts)
    at_once = max(1, _PAIRS_AT_ONCE // max(widest * tallest, 1))
    parts = []
    first_detection = first_target = 0
    for begin in range(0, images, at_once):
        n, m = detection_counts[begin : begin + at_once], target_counts[begin : begin + at_once]
        some = slice(first_detection, first_detection + sum(n)), slice(first_target, first_target + sum(m))
        if sum(n) and sum(m):
            iou = _iou(_padded(targets[some[1]], m), _padded(detections[some[0]], n))
            near = (iou >= least_iou) & _is_filled(m, iou.device)[:, :, None] & _is_filled(n, iou.device)[:, None]
            if detection_classes is not None and target_classes is not None:
                near &= (
                    _padded(target_classes[some[1]], m)[:, :, None] == _padded(detection_classes[some[0]], n)[:, None]
                )
            image, row, column = near.nonzero(as_tuple=True)  # waits for the GPU
            parts.append(
                Pairs(
                    _begins(n, iou.device)[image] + column + first_detection,
                    _begins(m, iou.device)[image] + row + first_target,
                    iou[image, row, column],
                )
            )
        first_detection, first_target = some[0].stop, some[1].stop
    if not parts:
        nothing = torch.zeros(0, dtype=torch.int64, device=detections.device)
        return Pairs(nothing, nothing, nothing.float())
    return Pairs(*(torch.cat(column) for column in zip(*parts, strict=True)))


def greedy(detection: Indices, target: Indices, iou: NDArray[np.float32]) -> Indices:
    """Which of the pairs are matches: detections choose in ascending order, each the free target of the largest overlap, then of least index.

    Args:
        detection, target, iou: (pairs,) those that overlap enough. Numbers of different images must differ.

    Returns:
        Indices of the matches, in no order.
    """
    order = _by_preference(detection, target, iou)
    return order[_matched(detection[order], target[order])]


def true_positives(
    detections: int, detection: Indices, target: Indices, iou: NDArray[np.float32], thresholds: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """(detections, thresholds) whether each detection is right at each overlap. The pairs are those of one class.

    Each threshold is a matching of its own: its detections and targets get numbers of their own, so that all are matched together.
    """
    order = _by_preference(detection, target, iou)
    detection, target, iou = detection[order], target[order], iou[order]
    level, pair = np.nonzero(iou[None] >= thresholds[:, None])
    targets = int(target.max(initial=-1)) + 1
    matches = _matched(detection[pair] + level * detections, target[pair] + level * targets)
    correct = np.zeros((detections, len(thresholds)), dtype=bool)
    correct[detection[pair[matches]], level[matches]] = True
    return correct


def _by_preference(detection: Indices, target: Indices, iou: NDArray[np.float32]) -> Indices:
    """The order in which pairs would be chosen if all targets stayed free."""
    return np.lexsort((target, -iou, detection))


def _matched(detection: Indices, target: Indices) -> Indices:
    """Which pairs are matches, of pairs in the order of preference.

    In a round, a detection gets its best free target if no earlier detection could still want it, which holds for the first of all; the pairs
    of both are dropped then. So the rounds are few: as many as the longest row of detections that wait for each other.
    """
    pair = np.arange(len(detection))
    is_settled = np.zeros(detection.max(initial=-1) + 1, dtype=bool)
    is_taken = np.zeros(target.max(initial=-1) + 1, dtype=bool)
    first = np.zeros(len(is_taken), dtype=np.int64)
    matches = [pair[:0]]
    while len(pair):
        is_best = np.concatenate(([True], detection[1:] != detection[:-1]))
        first[target[::-1]] = detection[::-1]  # of repeated indices the last assignment stays: the earliest detection
        wins = is_best & (first[target] == detection)
        matches.append(pair[wins])
        is_settled[detection[wins]] = True
        is_taken[target[wins]] = True
        left = ~(is_settled[detection] | is_taken[target])
        pair, detection, target = pair[left], detection[left], target[left]
    return np.concatenate(matches)


def _iou(targets: Tensor, detections: Tensor) -> Tensor:
    """As ultralytics' box_iou (utils/metrics.py:85), operation by operation, with a first dimension for images."""
    a1, a2 = targets.float()[:, :, None].chunk(2, 3)
    b1, b2 = detections.float()[:, None].chunk(2, 3)
    shared = (torch.min(a2, b2) - torch.max(a1, b1)).clamp_(0)
    size_a, size_b = a2 - a1, b2 - b1
    intersection = shared[..., 0] * shared[..., 1]
    return intersection / (size_a[..., 0] * size_a[..., 1] + size_b[..., 0] * size_b[..., 1] - intersection + _EPSILON)


def _begins(counts: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *counts[:-1]], device=device).cumsum(0)


def _is_filled(counts: list[int], device: torch.device) -> Tensor:
    return torch.arange(max(counts), device=device) < torch.tensor(counts, device=device)[:, None]


def _padded(values: Tensor, counts: list[int]) -> Tensor:
    """(images, most, ...) from values that lie image by image; where an image has fewer, some other value."""
    index = _begins(counts, values.device)[:, None] + torch.arange(max(counts), device=values.device)
    return values[index.clamp_(max=len(values) - 1)]
