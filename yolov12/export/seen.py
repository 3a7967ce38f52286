# SPDX-License-Identifier: AGPL-3.0-or-later
"""Does an export in less than float32 find what its source finds? Anchor by anchor, where either of the two sees something.

Rounding moves what nobody sees by any amount (parity.py tells why), and NMS makes a large difference of a small one. So boxes are compared before it,
for the anchors that one of the two gives a score that a user would be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from yolov12.export.adapter import as_exported
from yolov12.export.candidates import angle_of
from yolov12.export.parity import Exported, Image, ParityError, full_batches, require_same_shapes, tensors

SHOWN_SCORE = 0.25
"""What predict shows from here on (cfg/default.yaml, conf)."""


@dataclass(frozen=True)
class Tolerance:
    """How far an export may be from its source."""

    box_px: float
    score: float
    map_points: float
    """Percentage points of mAP50-95 that it may be worse by, where a data set was named."""


TOLERANCES = {
    "fp32": Tolerance(0.05, 0.001, 0.3),
    "fp16": Tolerance(1.0, 0.02, 0.3),
    "int8": Tolerance(16.0, 0.35, 2.0),
}
"""float16 keeps 11 bits, int8 keeps 8 of the largest value of a layer: its boxes are held by mAP, and by these bounds from nonsense."""


@dataclass(frozen=True)
class Seen:
    """What two models say where one of them sees something."""

    images: int
    shown: int
    """Anchors that one of the two gives a score of at least `SHOWN_SCORE`."""
    box_px: float
    """Largest difference of a side of their boxes, pixels of the input. 0 without any, NaN if one is NaN."""
    score: float
    """Largest difference of any score, of all anchors."""
    angle: float = 0.0
    """Largest difference of the angle of their boxes, radians; 0 where boxes have none."""


def compare_seen(source: torch.nn.Module, path: str | Path, exported: Exported, images: Sequence[Image]) -> Seen:
    """Run both over the same images.

    Args:
        source: the PyTorch network, copied to the CPU in float32.
        path: of the file, for messages.
        exported: the file, opened; its first output is (batch, 4 + classes + others, anchors), or has no anchors: then all of it is scores.
        images: at least one.

    Raises:
        ParityError: outputs of other shapes.
    """
    reference = as_exported(source)
    turned = getattr(source, "task", None) == "obb"
    shown, box_px, score, angle = 0, 0.0, 0.0, 0.0
    for pixels in full_batches(exported, images):
        with torch.inference_mode():
            expected = tensors(reference(torch.from_numpy(pixels)))
        got = exported.run(pixels)
        require_same_shapes(path, expected, got)
        a, b = (output[0].astype(np.float32) for output in (expected, got))
        if exported.classes is None:
            score = float(np.max([score, np.abs(a - b).max()]))
            continue
        scores = slice(4, 4 + exported.classes)
        mask = np.maximum(a[:, scores], b[:, scores]).max(axis=1) >= SHOWN_SCORE  # (batch, anchors)
        difference = np.abs(a - b)
        shown += int(mask.sum())
        score = float(np.max([score, difference[:, scores].max()]))  # np.max keeps NaN
        box_px = float(np.max([box_px, difference[:, :4].max(axis=1)[mask].max(initial=0.0)]))
        if turned:
            angle = float(np.max([angle, difference[:, -1][mask].max(initial=0.0)]))
        if not np.isfinite(b).all():
            score = float("nan")
    return Seen(len(images), shown, box_px, score, angle)


def require_seen(seen: Seen, allowed: Tolerance) -> Seen:
    """Give the measurement back when it is within the tolerance.

    Raises:
        ParityError: it is not, or there is a NaN.
    """
    problems = []
    if not seen.box_px <= allowed.box_px:
        problems.append(f"a box by {seen.box_px:.2f} px (allowed {allowed.box_px:g})")
    if not seen.score <= allowed.score:
        problems.append(f"a score by {seen.score:.4f} (allowed {allowed.score:g})")
    if not seen.angle <= angle_of(allowed.score):
        problems.append(f"an angle by {seen.angle:.3f} radians (allowed {angle_of(allowed.score):.3f})")
    if problems:
        raise ParityError(f"The exported model differs from its source on {seen.images} images: {'; '.join(problems)}.")
    return seen
