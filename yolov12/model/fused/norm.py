# SPDX-License-Identifier: AGPL-3.0-or-later
"""Batch norm over the batch, followed by SiLU or nothing, in three steps: statistics, apply, gradient.

Between them only the input and four numbers for each channel are kept; the normalised values are computed again where they are needed.
Two implementations of the same: the kernels of docker/kernels for GPUs, and torch's own operations, whose results are bit-equal to
`BatchNorm2d` followed by `SiLU`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov12 import compiled, settings
from yolov12.log import say

ALL = slice(None)


class Normalised(Protocol):
    """One call's statistics, and what is done with them. `y` is always the input that they were taken from."""

    def output(self, y: Tensor, out: Tensor | None = None, *, add: bool = False, channels: slice = ALL) -> Tensor:
        """act(norm(y)), or these channels of it; into `out` if given, or added to it."""

    def gradient(self, grad_out: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of y, of BN's weight and of its bias, from the gradient of the output."""


@cache
def kernels_missing(device: torch.device) -> str | None:
    """Why the compiled kernels do not serve this device; None if they do, and then their ops are loaded.

    Said once for each kind of GPU: torch's operations then take more time and memory.
    """
    if device.type != "cuda":
        return f"they are for GPUs, and this is {device.type}"
    return _missing_on(torch.cuda.get_device_capability(device), settings.current().kernels)


@cache
def _missing_on(capability: tuple[int, int], are_wanted: bool) -> str | None:
    reason = compiled.why_not(capability) if are_wanted else "YOLOV12_KERNELS=0"
    if reason:
        say(
            f"kernels: torch's operations run for batch norm, the stem, depthwise convolutions and the loss, without our kernels: {reason}"
        )
    return reason


def normalise(y: Tensor, norm: nn.BatchNorm2d, silu: bool) -> Normalised:
    """Take the statistics of `y`, (images, channels, height, width), and update the running ones."""
    if _is_served(y, norm):
        constants = torch.ops.yolov12_kernels.batch_norm_statistics(
            y,
            norm.weight,
            norm.bias,
            norm.running_mean,
            norm.running_var,
            norm.num_batches_tracked,
            norm.momentum,
            norm.eps,
        )
        return ByKernels(constants, silu)
    return by_torch(y, norm, silu)


@dataclass(frozen=True)
class ByKernels:
    """Our kernels; `constants` is (4, channels) float32: mean, 1 / deviation, scale, shift."""

    constants: Tensor
    silu: bool

    def output(self, y: Tensor, out: Tensor | None = None, *, add: bool = False, channels: slice = ALL) -> Tensor:
        part = y[:, channels]
        if not torch.ops.yolov12_kernels.is_rows(part):  # it begins or ends between two 16-byte loads
            return _put(self.output(y)[:, channels], out, add)
        if out is not None and not torch.ops.yolov12_kernels.is_rows(out):
            return _put(self.output(y, channels=channels), out, add)
        out = torch.empty_like(part, memory_format=torch.channels_last) if out is None else out
        constants = self.constants[:, channels].contiguous()
        torch.ops.yolov12_kernels.batch_norm_apply(part, constants, self.silu, out, add)
        return out

    def gradient(self, grad_out: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if grad_out.dtype != y.dtype or not torch.ops.yolov12_kernels.is_rows(grad_out):
            grad_out = grad_out.to(y.dtype, memory_format=torch.channels_last)
            if not torch.ops.yolov12_kernels.is_rows(grad_out):
                grad_out = grad_out.clone(memory_format=torch.channels_last)
        return torch.ops.yolov12_kernels.batch_norm_gradient(grad_out, y, self.constants, self.silu)


def _is_served(y: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether the kernels take this: on a GPU, channels_last, in 16-byte loads, with float32 weights and statistics."""
    if not y.is_cuda or kernels_missing(y.device) is not None:
        return False
    return norm.weight.dtype is torch.float32 and torch.ops.yolov12_kernels.is_rows(y)


def by_torch(y: Tensor, norm: nn.BatchNorm2d, silu: bool) -> ByTorch:
    """Statistics by torch, as `BatchNorm2d.forward` takes them."""
    assert norm.momentum is not None
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    weight, bias = norm.weight.detach(), norm.bias.detach()
    _, mean, inverse_deviation = torch.native_batch_norm(
        y, weight, bias, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
    )
    return ByTorch(weight, bias, mean, inverse_deviation, norm.eps, silu)


@dataclass(frozen=True)
class ByTorch:
    """Torch's operations, for CPUs, other layouts and machines without the kernels."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    inverse_deviation: Tensor
    eps: float
    silu: bool

    def output(self, y: Tensor, out: Tensor | None = None, *, add: bool = False, channels: slice = ALL) -> Tensor:
        made = self._normed(y[:, channels], channels)
        return _put(F.silu(made) if self.silu else made, out, add)

    def gradient(self, grad_out: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.silu:
            grad_out = torch.ops.aten.silu_backward(grad_out.to(y.dtype), self._normed(y, ALL))
        return torch.ops.aten.native_batch_norm_backward(
            grad_out, y, self.weight, None, None, self.mean, self.inverse_deviation, True, self.eps, [True, True, True]
        )

    def _normed(self, y: Tensor, channels: slice) -> Tensor:
        # The statistics are taken once more: only so are the values, to the bit, those of the first time.
        y = y if y.shape[1] == len(self.weight) else y.contiguous()
        weight, bias = self.weight[channels], self.bias[channels]
        return torch.native_batch_norm(y, weight, bias, None, None, True, 0.0, self.eps)[0]


def _put(made: Tensor, out: Tensor | None, add: bool) -> Tensor:
    """`made`, in `out` if there is one, or added to it."""
    if out is None:
        return made
    return out.add_(made) if add else out.copy_(made)
