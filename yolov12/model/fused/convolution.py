# SPDX-License-Identifier: AGPL-3.0-or-later
"""Convolutions without a bias and their gradients: torch's, or our kernels (docker/kernels) for two kinds of them.

Where each channel has a filter of its own (depthwise.h), cuDNN chooses its kernels anew for every number of images, for 0.1 to 1.4 seconds, where an
ordinary one takes milliseconds: more than nine tenths of what the first step of a shape costs. Ours have nothing to choose.

A network's first convolution, its stem (stem.h), takes pictures, which come in planes. Torch copies them into rows of three channels, and cuDNN
again, into wider ones. Ours read them as they lie.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from yolov12.model.fused.norm import kernels_missing
from yolov12.model.hooks import is_heard

STEM_CHANNELS = 96
"""The most that a stem may have for our kernels; the largest scale of any model of ultralytics has as many, and there is code for no more."""
STEM_CHANNELS_FLOAT32 = 16
"""The same in float32, for which they have no tensor cores: with 64 channels cuDNN's take less time (stem_times.log of 2026-11-29)."""


class Geometry(NamedTuple):
    """What of a `Conv2d` is not in its weight."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @staticmethod
    def of(conv: nn.Conv2d) -> Geometry:
        """Not for a `padding` in words."""
        assert not isinstance(conv.padding, str)
        return Geometry(conv.stride, conv.padding, conv.dilation, conv.groups)


def convolve(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The convolution of x, (images, channels, height, width), of the weight's type."""
    if _is_served(x, weight, geometry):
        return torch.ops.yolov12_kernels.depthwise(x, weight, False)
    if _is_served_stem(x, weight, geometry):
        return torch.ops.yolov12_kernels.stem(x, weight, None)
    stride, padding, dilation, groups = geometry
    return torch.ops.aten.convolution(x, weight, None, stride, padding, dilation, False, (0, 0), groups)


def gradients(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Those of x and of the weight from that of the output; of x only the shape is asked where the weight's is not needed."""
    if _is_served(grad, weight, geometry) and (not needs_weight or _is_served(x, weight, geometry)):
        ops = torch.ops.yolov12_kernels
        return (
            ops.depthwise(grad, weight, True) if needs_x else None,
            ops.depthwise_weight_gradient(grad, x, weight) if needs_weight else None,
        )
    if needs_weight and _is_served_stem(x, weight, geometry) and torch.ops.yolov12_kernels.is_rows(grad):
        # Nobody asks how to change a picture, but for explaining a prediction.
        grad_x = _gradients_by_torch(grad, x, weight, geometry, True, False)[0] if needs_x else None
        return grad_x, torch.ops.yolov12_kernels.stem_weight_gradient(grad, x, weight)
    return _gradients_by_torch(grad, x, weight, geometry, needs_x, needs_weight)


def _gradients_by_torch(
    grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    stride, padding, dilation, groups = geometry
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, (0, 0), groups, (needs_x, needs_weight, False)
    )
    return grad_x, grad_weight


def by_our_kernel(conv: nn.Module, x: Tensor) -> Tensor | None:
    """What calling `conv` outside of training would give, where one of our kernels computes it: depthwise in rows or planes, or a stem."""
    if not x.is_cuda or type(conv) is not nn.Conv2d:
        return None
    is_for_us = (
        (conv.groups > 1 or conv.in_channels == 3)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not is_heard(conv)
        and (keeps_size(conv.weight, Geometry.of(conv)) or is_stem(conv.weight, Geometry.of(conv)))
        and kernels_missing(x.device) is None
    )
    if not is_for_us:
        return None
    weight, bias = conv.weight, conv.bias
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    ops = torch.ops.yolov12_kernels
    if conv.groups == 1:
        return ops.stem(x, weight, bias) if _is_ours(x, weight) else None
    if ops.is_depthwise(x, weight):
        y = ops.depthwise(x, weight, False)
        return y if bias is None else y.add_(bias[:, None, None])
    return ops.depthwise_planes(x, weight, bias) if ops.is_depthwise_planes(x, weight) else None


def keeps_size(weight: Tensor, geometry: Geometry) -> bool:
    """Whether it has one filter for each channel, square and of odd side, and as many pixels come out as go in."""
    channels, of_group, height, width = weight.shape
    return (
        of_group == 1
        and geometry.groups == channels
        and height == width
        and height % 2 == 1
        and geometry.stride == (1, 1)
        and geometry.dilation == (1, 1)
        and geometry.padding == (height // 2, height // 2)
    )


def is_stem(weight: Tensor, geometry: Geometry) -> bool:
    """Whether it makes pictures half as large, as the first convolution of a network does: 3 channels in, 3 x 3 pixels, stride 2."""
    channels, *filter_shape = weight.shape
    return (
        filter_shape == [3, 3, 3]
        and channels % 16 == 0
        and channels <= STEM_CHANNELS
        and geometry == Geometry((2, 2), (1, 1), (1, 1), 1)
    )


def is_channels_last(x: Tensor, weight: Tensor) -> bool:
    """Whether torch will convolve in that layout: one of the two has it, and not only because a dimension is 1."""
    return any(t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous() for t in (x, weight))


def _is_served_stem(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether our kernels take this: on a GPU, in any layout of x, where y is to be channels_last."""
    if not x.is_cuda or not is_stem(weight, geometry) or kernels_missing(x.device) is not None:
        return False
    return _is_ours(x, weight)


def _is_ours(x: Tensor, weight: Tensor) -> bool:
    """Which stems are for our kernels and which for cuDNN's, in the type that is computed in."""
    most = STEM_CHANNELS_FLOAT32 if weight.dtype is torch.float32 else STEM_CHANNELS
    return len(weight) <= most and is_channels_last(x, weight) and torch.ops.yolov12_kernels.is_stem(x, weight)


def _is_served(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether our kernels take this: on a GPU, channels_last, in 16-byte loads, with filters of a side for which there is code."""
    if not x.is_cuda or not keeps_size(weight, geometry) or kernels_missing(x.device) is not None:
        return False
    return torch.ops.yolov12_kernels.is_depthwise(x, weight)
