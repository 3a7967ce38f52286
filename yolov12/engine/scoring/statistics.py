# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a validation collects on the device, and what becomes of it at the end: the arrays that ultralytics' metrics work on.

Nothing is fetched while batches come; `settle` fetches everything in a handful of copies and matches the whole set.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from yolov12.engine.scoring import matching

CONFUSION_IOU = 0.45
"""Above it a detection and an object of any class count as one another in the confusion matrix (utils/metrics.py:407)."""
_MARGIN = 1e-3
"""Pairs are collected from a little below the least overlap that counts; the comparison that decides is ultralytics', on the CPU."""


class Detections(NamedTuple):
    """Of one batch, image by image, best first."""

    boxes: Tensor
    """(n, 4) corners in pixels of the batch."""
    conf: Tensor
    cls: Tensor
    counts: list[int]


class Targets(NamedTuple):
    """The labelled objects of one batch, image by image."""

    boxes: Tensor
    cls: Tensor
    counts: list[int]


class Settled(NamedTuple):
    """A whole validation on the CPU, in the order in which images came."""

    tp: NDArray[np.bool_]
    """(n, thresholds)"""
    conf: NDArray[Any]
    pred_cls: NDArray[Any]
    target_cls: NDArray[np.float32]
    target_img: NDArray[np.float32]
    """The classes of each image once."""
    detection_image: NDArray[np.int64]
    target_image: NDArray[np.int64]
    confusion: NDArray[np.float64] | None
    """(classes + 1, classes + 1) as in ultralytics' ConfusionMatrix, [detected, labelled] with the background last; None if not asked for."""


class Collected:
    """The statistics of one validation."""

    def __init__(self, confusion_classes: int | None = None) -> None:
        """`confusion_classes`: how many classes a confusion matrix has; None for none, which is less work."""
        self.confusion_classes = confusion_classes
        self.files: list[str] = []
        self._detections: list[Detections] = []
        self._targets: list[Targets] = []
        self._pairs: list[matching.Pairs] = []
        self._totals = (0, 0)

    def add(self, detections: Detections, targets: Targets, files: list[str], least_iou: float) -> None:
        """Take a batch in, whole or, where this raises, not at all.

        Args:
            files: of the images.
            least_iou: the lowest overlap at which a detection may be right.
        """
        any_class = self.confusion_classes is not None
        pairs = matching.overlapping(
            detections.boxes,
            detections.counts,
            targets.boxes,
            targets.counts,
            (min(least_iou, CONFUSION_IOU) if any_class else least_iou) - _MARGIN,
            *(() if any_class else (detections.cls, targets.cls)),
        )
        before_d, before_t = self._totals
        pairs = matching.Pairs(pairs.detection + before_d, pairs.target + before_t, pairs.iou)
        # Boxes are not needed any more; they are the larger part.
        nothing = detections.boxes.new_zeros(0, 4)
        # From here on nothing asks the device for memory.
        self._totals = before_d + len(detections.conf), before_t + len(targets.cls)
        self._pairs.append(pairs)
        self._detections.append(detections._replace(boxes=nothing))
        self._targets.append(targets._replace(boxes=nothing))
        self.files += files

    def settle(self, thresholds: NDArray[np.float32], least_conf: float) -> Settled:
        """Fetch everything and match it.

        Args:
            thresholds: the overlaps at which detections are judged.
            least_conf: detections count in the confusion matrix from above it.
        """
        conf, pred_cls = (_fetched([getattr(one, name) for one in self._detections]) for name in ("conf", "cls"))
        target_cls = _fetched([one.cls for one in self._targets])
        detection, target, iou = (
            _fetched([getattr(one, name) for one in self._pairs]) for name in matching.Pairs._fields
        )
        detection_image = _images([one.counts for one in self._detections])
        target_image = _images([one.counts for one in self._targets])
        same = pred_cls[detection] == target_cls[target]
        confusion = None
        if self.confusion_classes is not None:
            confusion = confusion_matrix(
                (conf, pred_cls, detection_image),
                target_cls,
                (detection, target, iou),
                least_conf,
                self.confusion_classes,
            )
        tp = matching.true_positives(len(conf), detection[same], target[same], iou[same], thresholds)
        if 0 in (count for one in self._detections for count in one.counts):
            # Upstream appends an empty float64 array for an image without detections, and so sorts all of them as float64.
            conf, pred_cls = conf.astype(np.float64), pred_cls.astype(np.float64)
        return Settled(
            tp,
            conf,
            pred_cls,
            target_cls,
            _classes_of_images(target_cls, target_image),
            detection_image,
            target_image,
            confusion,
        )

    def per_image(self, settled: Settled) -> dict[str, dict[str, float]]:
        """Precision, recall and counts of each image by its file name, as `Metric.update_image_metrics` keeps them (utils/metrics.py:1064)."""
        images = len(self.files)
        right = np.bincount(settled.detection_image[settled.tp[:, 0]], minlength=images).tolist()
        found = np.bincount(settled.detection_image, minlength=images).tolist()
        labelled = np.bincount(settled.target_image, minlength=images).tolist()
        return {
            Path(file).name: _image_metrics(*counts)
            for file, *counts in zip(self.files, right, found, labelled, strict=True)
        }


def confusion_matrix(
    detections: tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]],
    target_cls: NDArray[Any],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]],
    least_conf: float,
    classes: int,
) -> NDArray[np.float64]:
    """As `ConfusionMatrix.process_batch` (utils/metrics.py:407) counts over all images.

    Args:
        detections: score, class and image of each.
        pairs: detection, target and overlap of each that are close, of any classes.
    """
    conf, pred_cls, image = detections
    detection, target, iou = pairs
    counts = conf > least_conf
    near = (iou > CONFUSION_IOU) & counts[detection]
    # There, an image's detections take turns by score, equal ones in the order in which they came; a head without NMS does not sort them.
    turn = np.empty(len(conf), dtype=np.int64)
    turn[np.lexsort((-conf, image))] = np.arange(len(conf))
    detection, target = detection[near], target[near]
    matches = matching.greedy(turn[detection], target, iou[near])
    detected, labelled = pred_cls.astype(np.int64), target_cls.astype(np.int64)
    is_missed, is_extra = np.ones(len(labelled), dtype=bool), counts.copy()
    is_missed[target[matches]] = is_extra[detection[matches]] = False
    matrix = np.zeros((classes + 1, classes + 1))
    np.add.at(matrix, (detected[detection[matches]], labelled[target[matches]]), 1)
    np.add.at(matrix, (np.full(is_missed.sum(), classes), labelled[is_missed]), 1)
    np.add.at(matrix, (detected[is_extra], np.full(is_extra.sum(), classes)), 1)
    return matrix


def _image_metrics(tp: int, detections: int, targets: int) -> dict[str, float]:
    if detections == targets == 0:  # nothing to find and nothing found is right
        precision = recall = f1 = 1.0
    else:
        precision = tp / detections if detections else 0.0
        recall = tp / targets if targets else 0.0
        f1 = 2 * precision * recall / (precision + recall) if tp else 0.0
    counts = {"tp": tp, "fp": detections - tp, "fn": targets - tp}
    return {"precision": precision, "recall": recall, "f1": f1, **counts}


def _classes_of_images(target_cls: NDArray[np.float32], image: NDArray[np.int64]) -> NDArray[np.float32]:
    order = np.lexsort((target_cls, image))
    cls, of = target_cls[order], image[order]
    is_new = np.ones(len(cls), dtype=bool)
    is_new[1:] = (cls[1:] != cls[:-1]) | (of[1:] != of[:-1])
    return cls[is_new]


def _images(counts: list[list[int]]) -> NDArray[np.int64]:
    """The image of each item."""
    flat = [count for batch in counts for count in batch]
    return np.repeat(np.arange(len(flat)), flat)


def _fetched(parts: list[Tensor]) -> NDArray[Any]:
    """On the CPU, as one array. Waits for the GPU."""
    array: NDArray[Any] = torch.cat(parts).cpu().numpy()
    return array
