# SPDX-License-Identifier: AGPL-3.0-or-later
"""The whole detection loss by the kernels of docker/kernels (detection_loss.h): assignment, the three losses, and their gradient.

They read the head's outputs where its convolutions left them. Upstream joins the levels, turns them round, copies scores and targets to fp32,
and finds pairs by waiting for the GPU. All arithmetic here is fp32, also where upstream's is bf16 under autocast (distances, scores).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.tal import TaskAlignedAssigner

from yolov12.model.fused.norm import kernels_missing
from yolov12.model.loss.levels import Levels

BINS = 16
"""Of the distribution of a distance, as in every released YOLO with one."""
MOST_CANDIDATES = 16
MOST_LEVELS = 5
WEIGHT_EPSILON = 1e-9
"""The one of the kernels, which is upstream's default (utils/tal.py:46)."""


class Rules(NamedTuple):
    """How objects are assigned and losses weighed, in the order in which the ops take it."""

    strides: list[float]
    """Pixels of a cell, for each level."""
    candidates: int
    alpha: float
    beta: float
    least_side: float
    gains: list[float]
    """Of box, class and distribution."""
    class_weights: Tensor | None


class Losses(NamedTuple):
    """What the kernels say."""

    losses: Tensor
    """(3,): box, class and distribution, times their gains; float32."""
    divisor: Tensor
    """The sum of target scores, at least 1; a scalar."""
    total: Tensor
    """The sum itself."""


Listener = Callable[[Tensor, Tensor], None]
_listeners: WeakKeyDictionary[v8DetectionLoss, Listener] = WeakKeyDictionary()


def listen(criterion: v8DetectionLoss, listener: Listener | None) -> None:
    """Call `listener(divisor, total)` at each loss that the kernels compute for the criterion; None ends that."""
    if listener is None:
        _listeners.pop(criterion, None)
    else:
        _listeners[criterion] = listener


def serves(criterion: v8DetectionLoss, preds: Any) -> bool:
    """Whether the kernels compute what this criterion computes, on these outputs."""
    return (
        isinstance(preds, Levels)
        and len(preds.boxes) <= MOST_LEVELS
        and serves_criterion(criterion, preds.boxes[0].device)
    )


def serves_criterion(criterion: Any, device: torch.device) -> bool:
    """Whether the kernels compute what this criterion computes on the outputs of a plain head."""
    return (
        type(criterion) is v8DetectionLoss
        and criterion.reg_max == BINS
        and _is_served(criterion.assigner)
        and is_plain(criterion.bce)
        and kernels_missing(device) is None
    )


def _is_served(assigner: TaskAlignedAssigner) -> bool:
    return (
        type(assigner) is TaskAlignedAssigner
        and assigner.topk == assigner.topk2
        and assigner.topk <= MOST_CANDIDATES
        and assigner.eps == WEIGHT_EPSILON
    )


def is_plain(bce: nn.Module) -> bool:
    """Whether it is the criterion's own, without weights."""
    return (
        type(bce) is nn.BCEWithLogitsLoss and bce.reduction == "none" and bce.weight is None and bce.pos_weight is None
    )


def rules_of(criterion: v8DetectionLoss) -> Rules:
    """What a criterion was made with, and the gains as they are now."""
    assigner, hyp, weights = criterion.assigner, criterion.hyp, criterion.class_weights
    return Rules(
        strides=[float(stride) for stride in assigner.stride],
        candidates=assigner.topk,
        alpha=assigner.alpha,
        beta=assigner.beta,
        least_side=float(assigner.stride_val),
        gains=[float(hyp.box), float(hyp.cls), float(hyp.dfl)],
        class_weights=None if weights is None else weights.flatten().float().contiguous(),
    )


def objects_of(batch: dict[str, Any], device: torch.device) -> Tensor:
    """(boxes, 6) float32: image, class, x, y, width, height."""
    columns = (batch["batch_idx"].view(-1, 1), batch["cls"].view(-1, 1), batch["bboxes"])
    return torch.cat([column.to(device, torch.float32, non_blocking=True) for column in columns], dim=1)


def detection_loss(levels: Levels, objects: Tensor, rules: Rules) -> Losses:
    """The losses of a batch, with a gradient for the head's outputs.

    Args:
        levels: the head's outputs.
        objects: as `objects_of` makes them; rows whose image is below 0 are no object, so that a batch can be padded.
        rules: of the criterion.
    """
    losses, sums = _DetectionLoss.apply(objects, rules, *map(_dense, levels.boxes), *map(_dense, levels.scores))
    return Losses(losses, sums[0], sums[1])


def loss(criterion: v8DetectionLoss, preds: Levels, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Stands in for `v8DetectionLoss.loss` (utils/loss.py:506)."""
    found = detection_loss(preds, objects_of(batch, preds.boxes[0].device), rules_of(criterion))
    listener = _listeners.get(criterion)
    if listener is not None:
        listener(found.divisor, found.total)
    items = dict(zip(criterion.loss_names, found.losses.detach(), strict=True))
    return found.losses * len(preds.boxes[0]), items


def _dense(output: Tensor) -> Tensor:
    """The output itself: convolutions leave it dense in one of the two layouts."""
    by_pixel = output.is_contiguous(memory_format=torch.channels_last)
    return output if by_pixel or output.is_contiguous() else output.contiguous(memory_format=torch.channels_last)


class _DetectionLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, objects: Tensor, rules: Rules, *outputs: Tensor) -> tuple[Tensor, Tensor]:
        half = len(outputs) // 2
        losses, sums, places, weights = torch.ops.yolov12_kernels.detection_loss(
            list(outputs[:half]), list(outputs[half:]), objects, *rules
        )
        ctx.rules = rules
        ctx.save_for_backward(objects, sums, places, weights, *outputs)
        ctx.mark_non_differentiable(sums)
        return losses, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        objects, sums, places, weights, *outputs = ctx.saved_tensors
        half = len(outputs) // 2
        made = torch.ops.yolov12_kernels.detection_loss_gradient(
            grads[0].contiguous(), outputs[:half], outputs[half:], objects, *ctx.rules, sums, places, weights
        )
        return (None, None, *made)
