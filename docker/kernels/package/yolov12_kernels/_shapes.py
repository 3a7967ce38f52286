# SPDX-License-Identifier: AGPL-3.0-or-later
"""What the ops return, for tensors without data: FakeTensorMode and torch's own checks of ops ask that. Import after the library is loaded."""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANTS = 4
"""Mean, 1 / deviation, scale and shift of each channel."""
ROOM = 512
"""Candidates of an image that suppression has room for."""


@torch.library.register_fake("yolov12_kernels::augment_warp")
def augment_warp(
    pictures: list[Tensor],
    slots: Tensor,
    pad: Tensor,
    inside: Tensor,
    seam: Tensor,
    backward: Tensor,
    size: int,
    is_projective: bool,
) -> Tensor:
    """(layers, 3, size, size) uint8."""
    return pictures[0].new_empty((slots.shape[0], 3, size, size))


@torch.library.register_fake("yolov12_kernels::augment_recolour")
def augment_recolour(images: Tensor, gains: Tensor) -> Tensor:
    """As images."""
    return torch.empty_like(images)


@torch.library.register_fake("yolov12_kernels::batch_norm_statistics")
def batch_norm_statistics(
    y: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    momentum: float,
    epsilon: float,
) -> Tensor:
    """(4, channels) float32 for y of (images, channels, height, width)."""
    return y.new_empty((CONSTANTS, y.shape[1]), dtype=torch.float32)


@torch.library.register_fake("yolov12_kernels::batch_norm_apply")
def batch_norm_apply(y: Tensor, constants: Tensor, silu: bool, out: Tensor, accumulate: bool) -> None:
    """Nothing: it writes into `out`."""


@torch.library.register_fake("yolov12_kernels::batch_norm_gradient")
def batch_norm_gradient(grad_out: Tensor, y: Tensor, constants: Tensor, silu: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of y, channels_last, and those of gamma and beta, float32."""
    grad_y = torch.empty_like(y, memory_format=torch.channels_last)
    return grad_y, y.new_empty(y.shape[1], dtype=torch.float32), y.new_empty(y.shape[1], dtype=torch.float32)


@torch.library.register_fake("yolov12_kernels::depthwise")
def depthwise(x: Tensor, weight: Tensor, turned: bool) -> Tensor:
    """As x, channels_last."""
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.register_fake("yolov12_kernels::depthwise_planes")
def depthwise_planes(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Of the shape of x, contiguous."""
    return x.new_empty(x.shape)


@torch.library.register_fake("yolov12_kernels::depthwise_weight_gradient")
def depthwise_weight_gradient(grad_y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """As weight."""
    return torch.empty_like(weight)


@torch.library.register_fake("yolov12_kernels::detection_loss")
def detection_loss(
    boxes: list[Tensor], scores: list[Tensor], objects: Tensor, strides: list[float], candidates: int, *rules: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three losses, two sums, and for each candidate of each object two numbers of its place and a weight."""
    places = objects.shape[0] * candidates
    ints = objects.new_empty((2, places), dtype=torch.int32)
    return objects.new_empty(3), objects.new_empty(2), ints, objects.new_empty(places)


@torch.library.register_fake("yolov12_kernels::detection_loss_gradient")
def detection_loss_gradient(
    grad_losses: Tensor, boxes: list[Tensor], scores: list[Tensor], *rules: object
) -> list[Tensor]:
    """The gradients of all boxes, then of all scores, laid out as these are."""
    return [torch.empty_like(output) for output in (*boxes, *scores)]


@torch.library.register_fake("yolov12_kernels::stem")
def stem(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Half of x in height and width, rounded up, with the weight's channels, channels_last."""
    images, _, height, width = x.shape
    shape = images, weight.shape[0], (height + 1) // 2, (width + 1) // 2
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.register_fake("yolov12_kernels::stem_weight_gradient")
def stem_weight_gradient(grad_y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """As weight."""
    return torch.empty_like(weight)


@torch.library.register_fake("yolov12_kernels::join")
def join(sources: list[Tensor], terms: list[int], doubled: list[bool]) -> Tensor:
    """Ranges of channels side by side, channels_last; of each the first source has the size."""
    firsts = [sum(terms[:number]) for number in range(len(terms))]
    images, _, height, width = sources[0].shape
    times = 2 if doubled[0] else 1
    shape = (images, sum(sources[first].shape[1] for first in firsts), times * height, times * width)
    return torch.empty(shape, dtype=sources[0].dtype, device=sources[0].device, memory_format=torch.channels_last)


@torch.library.register_fake("yolov12_kernels::halve")
def halve(x: Tensor) -> Tensor:
    """Of half the height and width, channels_last."""
    images, channels, height, width = x.shape
    shape = (images, channels, height // 2, width // 2)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


@torch.library.register_fake("yolov12_kernels::fused_conv")
def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int,
    silu: bool,
    residual: Tensor | None,
    out: Tensor,
    tile: int | None = None,
    early: bool = False,
) -> None:
    """Nothing: it writes into `out`."""


@torch.library.register_fake("yolov12_kernels::decode")
def decode(
    boxes: Tensor,
    scores: Tensor,
    strides: Tensor,
    sizes: list[int],
    classes: int,
    has_centres: bool,
    early: bool = False,
) -> Tensor:
    """(images, 4 + classes, anchors)."""
    return boxes.new_empty((boxes.shape[0], 4 + classes, boxes.shape[1]))


@torch.library.register_fake("yolov12_kernels::fused_depthwise")
def fused_depthwise(
    x: Tensor, taps: Tensor, bias: Tensor, silu: bool, residual: Tensor | None, out: Tensor, early: bool = False
) -> None:
    """Nothing: it writes into `out`."""


@torch.library.register_fake("yolov12_kernels::attend")
def attend(q: Tensor, k: Tensor, v: Tensor, early: bool = False) -> Tensor:
    """As q, contiguous."""
    return q.new_empty(q.shape)


@torch.library.register_fake("yolov12_kernels::suppress")
def suppress(
    prediction: Tensor,
    confidence: float,
    iou: float,
    max_det: int,
    agnostic: bool,
    wanted: Tensor | None,
    placing: list[float],
) -> Tensor:
    """(images, most + 1, 6) float32, with `most` at most `max_det`, the anchors, and the candidates that there is room for."""
    most = min(max_det, prediction.shape[2], ROOM)
    return prediction.new_empty((prediction.shape[0], most + 1, 6), dtype=torch.float32)


@torch.library.register_fake("yolov12_kernels::survive")
def survive(boxes: Tensor, order: Tensor, lengths: Tensor, iou: float, limit: int) -> tuple[Tensor, Tensor]:
    """(images, limit) int64 and (images,) int32."""
    return order.new_empty((order.shape[0], limit)), lengths.new_empty(lengths.shape)


@torch.library.register_fake("yolov12_kernels::letterbox")
def letterbox(frames: Tensor, levels: Tensor, height: int, width: int, top: int, left: int, out: Tensor) -> None:
    """Nothing: it writes into `out`."""
