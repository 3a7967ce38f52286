# SPDX-License-Identifier: AGPL-3.0-or-later
"""Does an exported model find the boxes that its source finds? Compared after NMS, image by image.

Two functions predict; where they come from is the caller's business, so that any pair can be compared: PyTorch and ONNX,
two precisions, two devices. `compare_boxes` only measures, `require_boxes` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from yolov12.export.parity import Image, ParityError

Predict = Callable[[Image], np.ndarray]
"""Image -> boxes after NMS, (n, 6) float: x1, y1, x2, y2 in pixels of the image, score, class."""

LEAST_IOU = 0.99
LARGEST_SCORE_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class BoxParity:
    """Boxes after NMS over all images. Where the counts of an image differ, the boxes that have a partner are compared."""

    images: int
    source_boxes: int
    exported_boxes: int
    images_with_unpaired_boxes: int
    least_iou: float
    """Of paired boxes; 1.0 when there is no pair."""
    largest_score_difference: float
    """Of paired boxes; 0.0 when there is no pair."""


def compare_boxes(source: Predict, exported: Predict, images: Sequence[Image]) -> BoxParity:
    """Run both predictors on every image and pair their boxes: equal class, best overlap first."""
    source_boxes = exported_boxes = unpaired = 0
    ious, score_differences = [1.0], [0.0]
    for image in images:
        expected, got = source(image), exported(image)
        pairs = pair_up(expected, got)
        source_boxes += len(expected)
        exported_boxes += len(got)
        unpaired += not len(expected) == len(got) == len(pairs)
        ious += [iou for _, _, iou in pairs]
        score_differences += [abs(float(expected[row, 4] - got[column, 4])) for row, column, _ in pairs]
    return BoxParity(len(images), source_boxes, exported_boxes, unpaired, min(ious), max(score_differences))


def require_boxes(
    parity: BoxParity,
    least_boxes: int = 1,
    least_iou: float = LEAST_IOU,
    largest_score_difference: float = LARGEST_SCORE_DIFFERENCE,
) -> BoxParity:
    """Give the measurement back when both found the same boxes and enough of them, raise `ParityError` when not."""
    if parity.source_boxes < least_boxes:
        raise ParityError(
            f"Nothing is proved: the model found {parity.source_boxes} boxes on {parity.images} images, and a comparison "
            f"needs at least {least_boxes}. Train longer, or compare on other images."
        )
    problems = []
    if parity.images_with_unpaired_boxes:
        problems.append(
            f"{parity.images_with_unpaired_boxes} of {parity.images} images have a box without partner "
            f"({parity.exported_boxes} boxes in all, {parity.source_boxes} from the source)"
        )
    if parity.least_iou < least_iou:
        problems.append(f"a box overlaps its partner by only IoU {parity.least_iou:.4f} (least allowed {least_iou})")
    if parity.largest_score_difference > largest_score_difference:
        problems.append(
            f"a score differs by {parity.largest_score_difference:.2e} (allowed {largest_score_difference:.0e})"
        )
    if problems:
        raise ParityError(f"The exported model's boxes are not those of its source: {'; '.join(problems)}.")
    return parity


def pair_up(expected: np.ndarray, got: np.ndarray) -> list[tuple[int, int, float]]:
    """Greedy pairs (row of `expected`, row of `got`, IoU), of equal class and overlapping, best overlap first."""
    iou = pairwise_iou(expected, got) * (expected[:, None, 5] == got[None, :, 5])
    pairs = []
    while iou.size and iou.max() > 0:
        row, column = np.unravel_index(int(iou.argmax()), iou.shape)
        pairs.append((int(row), int(column), float(iou[row, column])))
        iou[row, :] = iou[:, column] = 0
    return pairs


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of every box of `a` (n, >= 4) with every box of `b` (m, >= 4), corners x1, y1, x2, y2 -> (n, m)."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    overlap = np.prod(np.clip(bottom_right - top_left, 0, None), axis=-1)
    area_a, area_b = (np.prod(boxes[:, 2:4] - boxes[:, :2], axis=-1) for boxes in (a, b))
    return overlap / np.maximum(area_a[:, None] + area_b[None, :] - overlap, 1e-9)
