# SPDX-License-Identifier: AGPL-3.0-or-later
"""Our assignment and classification loss in the place of ultralytics'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.tal import TaskAlignedAssigner

from yolov12.model.loss.assignment import assign
from yolov12.model.loss.bce import bce_in_slices
from yolov12.seams import Seam, replaced

SEAMS = (
    Seam("utils/tal.py", 14, "ultralytics.utils.tal.TaskAlignedAssigner", "7745a1a204c3"),
    Seam("utils/loss.py", 423, "ultralytics.utils.loss.v8DetectionLoss.get_assigned_targets_and_loss", "b35c13578262"),
)

_upstream_forward = TaskAlignedAssigner.forward
_upstream_loss = v8DetectionLoss.get_assigned_targets_and_loss


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
    if not _is_plain(self.bce) or torch.compiler.is_compiling():
        return _upstream_loss(self, *args, **kwargs)
    with replaced(self, bce=bce_in_slices):
        return _upstream_loss(self, *args, **kwargs)


def _is_plain(bce: nn.Module) -> bool:
    return (
        type(bce) is nn.BCEWithLogitsLoss and bce.reduction == "none" and bce.weight is None and bce.pos_weight is None
    )


def install() -> None:
    """Replace both; again does nothing. Criteria that exist already change too."""
    TaskAlignedAssigner.forward = forward
    v8DetectionLoss.get_assigned_targets_and_loss = get_assigned_targets_and_loss


def uninstall() -> None:
    """Put upstream's back."""
    TaskAlignedAssigner.forward = _upstream_forward
    v8DetectionLoss.get_assigned_targets_and_loss = _upstream_loss
