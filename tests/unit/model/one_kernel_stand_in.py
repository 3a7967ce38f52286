# SPDX-License-Identifier: AGPL-3.0-or-later
"""Torch in the place of docker/kernels/fused_conv.h and fused_depthwise.h, on tensors that they take: makes the CPU a GPU with kernels."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from yolov12.model.fused import one_kernel, two_kernels


class Call(NamedTuple):
    """What the kernel was given."""

    x: tuple[int, ...]
    out: tuple[int, ...]
    side: int
    stride: int
    silu: bool
    has_residual: bool
    x_is_part: bool
    out_is_part: bool


def is_pixels(t: Tensor) -> bool:
    """As docker/kernels/fused_conv_ops.cpp has it, of any type."""
    images, channels, height, width = t.shape
    pixel = t.stride(3) if width > 1 else t.stride(2) if height > 1 else channels
    image = t.stride(0) if images > 1 else height * width * pixel
    return (
        t.stride(1) == 1
        and not any(number % 8 for number in (channels, pixel, image, t.storage_offset()))
        and pixel >= channels
        and (height == 1 or t.stride(2) == pixel * width)
    )


def takes(x: Tensor, weight: Tensor, stride: int) -> bool:
    out_channels, channels, side, _ = weight.shape
    if not is_pixels(x) or channels != x.shape[1] or out_channels % 8:
        return False
    return side == 1 or weight.is_contiguous(memory_format=torch.channels_last)


def is_rows(t: Tensor) -> bool:
    """As docker/kernels/tensors.h has it: as `is_pixels`, and the distance between pixels is the same where an image begins."""
    return is_pixels(t) and (len(t) == 1 or t.stride(0) == t.shape[2] * t.stride(2))


def install_two(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Torch in the place of the pass that follows cuDNN's convolution, for all that `one_kernel` takes; the shapes that it writes from now on."""
    shapes: list[tuple[int, ...]] = []

    def finish(y: Tensor, constants: Tensor, silu: bool, out: Tensor, is_added: bool) -> None:
        assert is_rows(y)
        assert is_rows(out)
        shapes.append(tuple(out.shape))
        y = y + constants[3][:, None, None]
        y = F.silu(y) if silu else y
        out.copy_(out + y if is_added else y)

    monkeypatch.setattr(two_kernels, "_is_rows", is_rows)
    monkeypatch.setattr(two_kernels, "finish", finish)
    monkeypatch.setattr(two_kernels, "DEEP", 0)
    monkeypatch.setattr(two_kernels, "LARGE", 0)
    return shapes


def install(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The calls that come from now on."""
    calls: list[Call] = []

    def is_part(t: Tensor) -> bool:
        return not t.is_contiguous(memory_format=torch.channels_last)

    def run(
        x: Tensor, weight: Tensor, bias: Tensor, stride: int, silu: bool, residual: Tensor | None, out: Tensor
    ) -> None:
        assert takes(x, weight, stride)
        assert is_pixels(out)
        assert residual is None or (is_pixels(residual) and residual.shape == out.shape)
        y = F.conv2d(x, weight, bias, stride, weight.shape[2] // 2)
        y = F.silu(y) if silu else y
        out.copy_(y if residual is None else residual + y)
        parts = is_part(x), is_part(out)
        calls.append(
            Call(tuple(x.shape), tuple(out.shape), weight.shape[2], stride, silu, residual is not None, *parts)
        )

    def run_depthwise(x: Tensor, taps: Tensor, bias: Tensor, silu: bool, residual: Tensor | None, out: Tensor) -> None:
        assert is_pixels(x)
        assert is_pixels(out)
        assert residual is None or (is_pixels(residual) and residual.shape == out.shape)
        weight = taps.permute(2, 0, 1)[:, None]
        y = F.conv2d(x, weight, bias, padding=len(taps) // 2, groups=len(weight))
        y = F.silu(y) if silu else y
        out.copy_(y if residual is None else residual + y)
        parts = is_part(x), is_part(out)
        calls.append(Call(tuple(x.shape), tuple(out.shape), len(taps), 1, silu, residual is not None, *parts))

    monkeypatch.setattr(one_kernel, "takes", takes)
    monkeypatch.setattr(one_kernel, "_takes_depthwise", lambda x, side: is_pixels(x) and side in (3, 5, 7))
    monkeypatch.setattr(one_kernel, "_run_depthwise", run_depthwise)
    monkeypatch.setattr(one_kernel, "_run", run)
    return calls
