# SPDX-License-Identifier: AGPL-3.0-or-later
"""Batch norm whose statistics are those of all ranks' images.

torch's `SyncBatchNorm` needs CUDA. This one is made of ordinary operations, so it runs over gloo on the CPU as over NCCL, and ranks may hold
different numbers of images: what is summed over them are counts, sums and sums of squares, and in backward the two sums that the
gradient needs. One all-reduce of a few numbers per channel each way, in float64, where the sum of squares loses nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

OVER = (0, 2, 3)
"""The dimensions of (images, channels, height, width) that the statistics are taken over."""


_counts = True


@contextmanager
def counted(images_count: bool) -> Iterator[None]:
    """Within it, whether this rank's images enter the statistics; they are normalised by them either way.

    A rank without an image in a batch takes part with a borrowed one (data/order.py), which must change nothing.
    """
    global _counts
    before, _counts = _counts, images_count
    try:
        yield
    finally:
        _counts = before


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """A `BatchNorm2d` in all but its training pass. Copies and files of it are `BatchNorm2d`: checkpoints stay those of stock.

    Every rank must run it equally often, forward and backward: with a rank missing, the others wait in it until the groups' timeout.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(images, channels, height, width); this rank may have no images."""
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return super().forward(x)
        output, mean, variance, count = _Synced.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._follow(mean, variance, count)
        return output

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics, as `BatchNorm2d` does: their variance is the unbiased one."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return nn.BatchNorm2d, (self.num_features,), vars(self).copy()


def synchronise(model: nn.Module) -> int:
    """Turn every `BatchNorm2d` of a model into a synchronised one, in place: parameters, buffers and names stay.

    Returns:
        How many there were.
    """
    _hide_from_torch_compile()
    norms = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
    for norm in norms:
        norm.__class__ = SyncedBatchNorm2d
    return len(norms)


@functools.cache
def _hide_from_torch_compile() -> None:
    """No compiled graph may hold what waits for other ranks. Done here and not where the class is made: it imports torch._dynamo, for seconds."""
    SyncedBatchNorm2d.forward = torch.compiler.disable(SyncedBatchNorm2d.forward)  # type: ignore[method-assign]


def is_synchronised(model: nn.Module) -> bool:
    """Whether its forward communicates: by these modules, or by torch's own."""
    return any(isinstance(module, (SyncedBatchNorm2d, nn.SyncBatchNorm)) for module in model.modules())


class _Synced(torch.autograd.Function):
    """(x, weight, bias) -> normalised x, and the mean, biased variance and count of all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        precise = _precise(x)
        sums = torch.zeros(1 + 2 * x.shape[1], dtype=torch.float64, device=x.device)
        here = x.numel() // x.shape[1]
        if here and _counts:
            variance, mean = (value.double() for value in torch.var_mean(precise, OVER, correction=0))
            torch.cat([torch.full_like(mean[:1], here), mean * here, (variance + mean.square()) * here], out=sums)
        dist.all_reduce(sums)
        count, mean, squares = sums[0], *sums[1:].div_(sums[0].clamp(min=1)).chunk(2)
        mean, variance = mean.to(precise.dtype), (squares - mean.square()).clamp_(min=0).to(precise.dtype)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        output = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps) if here else x.clone()
        ctx.mark_non_differentiable(mean, variance, count)
        return output, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_deviation, count = ctx.saved_tensors
        grad = _precise(grads[0])
        normalised = (_precise(x) - _per_channel(mean)) * _per_channel(inverse_deviation)
        local = torch.stack([grad.sum(OVER), (grad * normalised).sum(OVER)])
        # Those of the weight and bias stay this rank's: they are summed over the ranks with all other gradients.
        means = local.to(torch.float64, copy=True)
        dist.all_reduce(means)
        mean_grad, mean_product = (means / count.clamp(min=1)).to(grad.dtype)
        scale = inverse_deviation if weight is None else inverse_deviation * weight
        grad_x = (grad - _per_channel(mean_grad) - normalised * _per_channel(mean_product)) * _per_channel(scale)
        grad_bias, grad_weight = local if weight is None else local.to(weight.dtype)
        return (
            grad_x.to(x.dtype),
            grad_weight if ctx.needs_input_grad[1] else None,
            grad_bias if ctx.needs_input_grad[2] else None,
            None,
        )


def _precise(x: Tensor) -> Tensor:
    """fp16 and bf16 as float32: their own sums would overflow, or round."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _per_channel(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
