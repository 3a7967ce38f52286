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

KERNELS = "yolov12_kernels"
"""The package that holds the compiled kernels, and the namespace of their ops."""


class Normalised(Protocol):
    """One call's statistics, and what is done with them. `y` is always the input that they were taken from, or some of its channels."""

    def output(self, y: Tensor, out: Tensor | None = None, *, add: bool = False, first: int = 0) -> Tensor:
        """act(norm(y)), into `out` if given, or added to it; `y` may begin at channel `first` of the input."""

    def gradient(self, grad_out: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of y, of BN's weight and of its bias, from the gradient of the output."""


@cache
def kernels_missing() -> str | None:
    """Why the compiled kernels are not there; None if they are. Loads them the first time."""
    try:
        import yolov12_kernels
    except ImportError as error:
        return f"the package {KERNELS} can not be imported ({error})"
    return yolov12_kernels.load()


def normalise(y: Tensor, norm: nn.BatchNorm2d, silu: bool) -> Normalised:
    """Take the statistics of `y`, (images, channels, height, width), and update the running ones."""
    if y.is_cuda and kernels_missing() is None and torch.ops.yolov12_kernels.is_rows(y):
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

    def output(self, y: Tensor, out: Tensor | None = None, *, add: bool = False, first: int = 0) -> Tensor:
        out = torch.empty_like(y, memory_format=torch.channels_last) if out is None else out
        channels = y.shape[1]
        constants = self.constants
        if channels != constants.shape[1]:
            constants = constants[:, first : first + channels].contiguous()
        if torch.ops.yolov12_kernels.is_rows(out):
            torch.ops.yolov12_kernels.batch_norm_apply(y, constants, self.silu, out, add)
            return out
        made = torch.empty_like(
            y, memory_format=torch.channels_last
        )  # a part whose channels begin between two 16-byte loads
        torch.ops.yolov12_kernels.batch_norm_apply(y, constants, self.silu, made, False)
        return out.add_(made) if add else out.copy_(made)

    def gradient(self, grad_out: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if grad_out.dtype != y.dtype or not torch.ops.yolov12_kernels.is_rows(grad_out):
            grad_out = grad_out.to(y.dtype, memory_format=torch.channels_last)
            if not torch.ops.yolov12_kernels.is_rows(grad_out):
                grad_out = grad_out.clone(memory_format=torch.channels_last)
        return torch.ops.yolov12_kernels.batch_norm_gradient(grad_out, y, self.constants, self.silu)


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

    def output(self, y: Tensor, out: Tensor | None = None, *, add: bool = False, first: int = 0) -> Tensor:
        channels = slice(first, first + y.shape[1])
        made = self._normed(y, channels)
        made = F.silu(made) if self.silu else made
        if out is None:
            return made
        return out.add_(made) if add else out.copy_(made)

    def gradient(self, grad_out: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.silu:
            grad_out = torch.ops.aten.silu_backward(grad_out.to(y.dtype), self._normed(y, slice(None)))
        return torch.ops.aten.native_batch_norm_backward(
            grad_out, y, self.weight, None, None, self.mean, self.inverse_deviation, True, self.eps, [True, True, True]
        )

    def _normed(self, y: Tensor, channels: slice) -> Tensor:
        # The statistics are taken once more: only so are the values, to the bit, those of the first time.
        y = y if y.shape[1] == len(self.weight) else y.contiguous()
        return torch.native_batch_norm(y, self.weight[channels], self.bias[channels], None, None, True, 0.0, self.eps)[
            0
        ]
