# SPDX-License-Identifier: AGPL-3.0-or-later
"""Our assignment and classification loss in the place of ultralytics'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.tal import TaskAlignedAssigner

from yolov12.model.loss import kernels, levels
from yolov12.model.loss.assignment import assign
from yolov12.model.loss.bce import bce_in_slices
from yolov12.seams import Seam, replaced

SEAMS = (
    Seam("utils/tal.py", 14, "ultralytics.utils.tal.TaskAlignedAssigner", "7745a1a204c3"),
    Seam("utils/loss.py", 423, "ultralytics.utils.loss.v8DetectionLoss.get_assigned_targets_and_loss", "b35c13578262"),
    Seam("utils/loss.py", 506, "ultralytics.utils.loss.v8DetectionLoss.loss", "9762b7e6c2ca"),
)

_upstream_forward = TaskAlignedAssigner.forward
_upstream_targets_and_loss = v8DetectionLoss.get_assigned_targets_and_loss
_upstream_loss = v8DetectionLoss.loss


def forward(
    self: TaskAlignedAssigner,
    pd_scores: Tensor,
    pd_bboxes: Tensor,
    anc_points: Tensor,
    gt_labels: Tensor,
    gt_bboxes: Tensor,
    mask_gt: Tensor,
    **extra: Any,
) -> tuple[Tensor, ...]:
    """Stands in for `TaskAlignedAssigner.forward` (utils/tal.py:63), but for its retry image by image: memory that runs out is the step's affair.

    Upstream's remains where no box is in the batch, for the assigners of other tasks, and for heads without NMS (`topk2`), which choose twice.
    """
    plain = type(self) is TaskAlignedAssigner and self.topk2 == self.topk and not extra
    if not plain or gt_bboxes.shape[1] == 0 or torch.compiler.is_compiling():
        return _upstream_forward(self, pd_scores, pd_bboxes, anc_points, gt_labels, gt_bboxes, mask_gt, **extra)
    return tuple(assign(self, pd_scores, pd_bboxes, anc_points, gt_labels, gt_bboxes, mask_gt))


def get_assigned_targets_and_loss(self: v8DetectionLoss, *args: Any, **kwargs: Any) -> Any:
    """Upstream's (utils/loss.py:423) with another `bce` for the length of the call, so that the criterion pickles as it did."""
    if not kernels.is_plain(self.bce) or torch.compiler.is_compiling():
        return _upstream_targets_and_loss(self, *args, **kwargs)
    with replaced(self, bce=bce_in_slices):
        return _upstream_targets_and_loss(self, *args, **kwargs)


def loss(self: v8DetectionLoss, preds: Any, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """By our kernels where they compute the same, else upstream's (utils/loss.py:506), which comes by the two above."""
    if not torch.compiler.is_compiling() and kernels.serves(self, preds):
        return kernels.loss(self, preds, batch)
    return _upstream_loss(self, preds, batch)


def install() -> None:
    """Replace all; again does nothing. Criteria that exist already change too."""
    levels.install()
    TaskAlignedAssigner.forward = forward
    v8DetectionLoss.get_assigned_targets_and_loss = get_assigned_targets_and_loss
    v8DetectionLoss.loss = loss


def uninstall() -> None:
    """Put upstream's back."""
    levels.uninstall()
    TaskAlignedAssigner.forward = _upstream_forward
    v8DetectionLoss.get_assigned_targets_and_loss = _upstream_targets_and_loss
    v8DetectionLoss.loss = _upstream_loss
