# SPDX-License-Identifier: AGPL-3.0-or-later
"""Torch in the place of our ops, and a clock that tells what it was told: so every contest can be held on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.kernels.contest import Call
from benchmarks.kernels.inference import TILES
from yolov12.model.attention import kernels as attention_kernels

CHOSEN = 2


class Ops:
    """What torch.ops.yolov12_kernels has, with its arguments. It takes what the kernels take: half precision, channels_last."""

    def fused_conv_tile(self, x: Tensor, weight: Tensor, stride: int) -> int:
        assert stride in (1, 2)
        return CHOSEN

    def fused_conv(
        self,
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
        assert tile in range(len(TILES))
        assert (x.dtype, x.shape[1] % 8, weight.shape[0] % 8) == (torch.float16, 0, 0)
        assert all(is_pixels(one) for one in (x, weight, out))
        y = F.conv2d(x, weight, bias, stride, weight.shape[2] // 2)
        out.copy_(F.silu(y) if silu else y)

    def fused_depthwise(
        self, x: Tensor, taps: Tensor, bias: Tensor, silu: bool, residual: Tensor | None, out: Tensor, early: bool
    ) -> None:
        assert taps.is_contiguous()
        weight = taps.permute(2, 0, 1)[:, None]
        y = F.conv2d(x, weight, bias, padding=len(taps) // 2, groups=len(weight))
        out.copy_(F.silu(y) if silu else y)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, early: bool) -> Tensor:
        assert q.dtype is torch.float16
        return attention_kernels.plain(q, k, v)

    def decode(
        self,
        boxes: Tensor,
        scores: Tensor,
        strides: Tensor,
        sizes: list[int],
        classes: int,
        has_centres: bool,
        early: bool,
    ) -> Tensor:
        assert boxes.is_contiguous()
        assert (strides.dtype, has_centres) == (torch.float32, True)
        images, anchors, _ = boxes.shape
        distances = boxes.view(images, anchors, 4, 16).float().softmax(3) @ torch.arange(16.0)
        places, begin = [], 0
        for stride, height, width in zip(strides, sizes[::2], sizes[1::2], strict=True):
            down, right = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
            centres = torch.stack((right, down), -1).view(-1, 2)
            of_level = distances[:, begin : begin + height * width]
            low, high = centres - of_level[..., :2], centres + of_level[..., 2:]
            places.append(stride * torch.cat(((low + high) / 2, high - low), 2))
            begin += height * width
        made = torch.cat((torch.cat(places, 1), scores[..., :classes].float().sigmoid()), 2)
        return made.to(boxes.dtype).transpose(1, 2)

    def batch_norm_statistics(
        self,
        y: Tensor,
        gamma: Tensor,
        beta: Tensor,
        mean: Tensor,
        var: Tensor,
        batches: Tensor,
        momentum: float,
        epsilon: float,
    ) -> Tensor:
        assert is_pixels(y)
        of_batch = y.float().mean((0, 2, 3))
        inverse_deviation = (y.float().var((0, 2, 3), correction=0) + epsilon).rsqrt()
        return torch.stack((of_batch, inverse_deviation, gamma, beta))

    def batch_norm_apply(self, y: Tensor, constants: Tensor, silu: bool, out: Tensor, accumulate: bool) -> None:
        assert not accumulate
        assert constants.dtype is torch.float32
        made = normed(y.float(), constants)
        out.copy_(F.silu(made) if silu else made)

    def batch_norm_gradient(
        self, grad: Tensor, y: Tensor, constants: Tensor, silu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            x, gamma, beta = (one.float().detach().requires_grad_() for one in (y, constants[2], constants[3]))
            made = F.batch_norm(x, None, None, gamma, beta, True, 0.0, 1e-3)
            (F.silu(made) if silu else made).backward(grad.float())
        return x.grad.to(y.dtype), gamma.grad, beta.grad

    def depthwise(self, x: Tensor, weight: Tensor, turned: bool) -> Tensor:
        weight = weight.flip(2, 3) if turned else weight
        return F.conv2d(x, weight, None, padding=weight.shape[2] // 2, groups=len(weight))

    def depthwise_weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        pad = weight.shape[2] // 2
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, (1, 1), (pad, pad), (1, 1), False, (0, 0), len(weight), (False, True, False)
        )[1]

    def stem(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert x.is_contiguous()
        assert is_pixels(weight)
        return F.conv2d(x, weight, bias, 2, 1)

    def stem_weight_gradient(self, grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, (2, 2), (1, 1), (1, 1), False, (0, 0), 1, (False, True, False)
        )[1]

    def join(self, sources: list[Tensor], terms: list[int], doubled: list[bool]) -> Tensor:
        assert terms == [1] * len(sources)
        parts = zip(sources, doubled, strict=True)
        return torch.cat([one.repeat_interleave(2, 2).repeat_interleave(2, 3) if two else one for one, two in parts], 1)


def is_pixels(t: Tensor) -> bool:
    return t.is_contiguous(memory_format=torch.channels_last)


def normed(y: Tensor, constants: Tensor) -> Tensor:
    mean, inverse_deviation, scale, shift = (one[:, None, None] for one in constants)
    return (y - mean) * inverse_deviation * scale + shift


class ToldClock:
    """Calls each way once, keeps what it answered, and gives the time that it was told for it."""

    cache_bytes = 2**20

    def __init__(self, us: Callable[[str], float] = lambda way: 10.0, broken: Mapping[str, str] | None = None) -> None:
        self.us, self.broken = us, broken or {}
        self.answers: list[dict[str, Any]] = []
        self.calls: list[int] = []

    def race(self, ways: Mapping[str, Sequence[Call]], calls: int) -> tuple[dict[str, float], dict[str, str]]:
        running = {name: on_sets for name, on_sets in ways.items() if name not in self.broken}
        self.answers.append({name: on_sets[0]() for name, on_sets in running.items()})
        self.calls.append(calls)
        failed = {name: reason for name, reason in self.broken.items() if name in ways}
        return {name: self.us(name) for name in running}, failed
