# SPDX-License-Identifier: AGPL-3.0-or-later
"""Suppression as predictors ask for it: one class for each box, chosen classes alone, heads that suppress by themselves."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolov12.engine.scoring import fixed, suppression


class Asked(NamedTuple):
    """What is asked of a suppression."""

    confidence: float
    iou: float
    max_det: int
    agnostic: bool
    classes: tuple[int, ...] | None
    """Those that are looked for; None for all."""
    end2end: bool


def asked(args: Any, iou: float, end2end: bool) -> Asked:
    """From the arguments of a predictor."""
    # A number, a list or an array, as torch.tensor takes them.
    classes = None if args.classes is None else tuple(np.ravel(args.classes).tolist())
    return Asked(args.conf, iou, args.max_det, args.agnostic_nms, classes, end2end)


class Suppression:
    """The detections of a batch of predictions as a function of one tensor: (images, 4 + classes, anchors), or (images, boxes, 6) of a head that
    suppresses by itself."""

    def __init__(self) -> None:
        self._tensors: dict[Any, Tensor] = {}

    def __call__(self, prediction: Tensor, what: Asked) -> Tensor:
        """(images, most + 1, 6), without waiting for the device; see `fixed.fixed_nms`."""
        wanted = self.wanted(prediction, what)
        if what.end2end or prediction.shape[-1] == 6:  # as ultralytics tells (utils/nms.py:72)
            return fixed.fixed_end_to_end(prediction, what.confidence, what.max_det, wanted=wanted)
        return fixed.fixed_nms(
            prediction, what.confidence, what.iou, what.max_det, agnostic=what.agnostic, wanted=wanted
        )

    def by_waiting(self, prediction: Tensor, what: Asked) -> list[Tensor]:
        """(n, 6) of each image, for crowds that tensors of fixed shapes have no room for."""
        rows, counts = suppression.batched_nms(
            prediction,
            what.confidence,
            what.iou,
            multi_label=False,
            agnostic=what.agnostic,
            max_det=what.max_det,
            wanted=self.wanted(prediction, what),
        )
        return list(rows.split(counts))

    def wanted(self, prediction: Tensor, what: Asked) -> Tensor | None:
        """(n,) float32, the classes as a tensor, kept: a graph can not make one from numbers on the CPU."""
        if what.classes is None:
            return None
        key = (what.classes, prediction.device)
        if key not in self._tensors:
            self._tensors[key] = torch.tensor(what.classes, dtype=torch.float32, device=prediction.device)
        return self._tensors[key]
