# SPDX-License-Identifier: AGPL-3.0-or-later
"""A convolution in inference with all that follows it in one kernel of ours: bias, SiLU, and the sum of a shortcut.

Of all channels (docker/kernels/fused_conv.h), or with a filter for each (fused_depthwise.h). Large and deep ones are two kernels (two_kernels.py).

`convolved` is for those who have such a convolution; where the kernel does not take it, or its input, they get None and do it another way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from yolov12.model.fused import two_kernels
from yolov12.model.fused.beside import made_from
from yolov12.model.fused.norm import kernels_missing
from yolov12.model.hooks import is_heard

BEGINS_EARLY = True
"""Whether a kernel comes onto the GPU while the one before it still runs, where the GPU can, and waits there for its end. Answers are the same."""


def is_undisturbed(x: Tensor) -> bool:
    """Whether this is a plain call in inference on a GPU with our kernels: nothing is recorded, traced, compiled or cast."""
    if not x.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return not torch.is_autocast_enabled("cuda") and kernels_missing(x.device) is None


def serves(conv: Any, act: nn.Module | None, x: Tensor) -> bool:
    """Whether act(conv(x)) is for kernels of ours, for an `x` that `is_undisturbed`."""
    if not (_is_plain(conv) and _is_known(act) and x.dtype is conv.weight.dtype):
        return False
    if conv.groups == 1:
        return conv.kernel_size in ((1, 1), (3, 3)) and takes(x, conv.weight, conv.stride[0])
    return _is_depthwise(conv) and _takes_depthwise(x, conv.kernel_size[0])


def convolved(
    conv: Any, act: nn.Module | None, x: Tensor, residual: Tensor | None = None, out: Tensor | None = None
) -> Tensor | None:
    """residual + act(conv(x)); None where no kernel serves.

    Args:
        conv: of any kind; served are those with a bias and one group, of 1 or 3 pixels and stride 1 or 2, and depthwise ones of 3, 5 or 7 pixels.
        act: SiLU and Identity are served; None is Identity.
        x: (images, channels, height, width), channels_last or some channels of such a tensor; one that `is_undisturbed`.
        residual: like the output, which it is added to. It may be some channels as well.
        out: where the output goes, some channels of a concatenation say; a new channels_last tensor by default.
    """
    if not serves(conv, act, x):
        return None
    silu = type(act) is nn.SiLU
    if conv.groups == 1:
        return convolved_by(conv, conv.weight, conv.bias, x, conv.stride[0], silu, residual, out)
    out = _new(x, conv.out_channels) if out is None else out
    _run_depthwise(x, _taps_of(conv), conv.bias, silu, residual, out)
    return out


def convolved_by(
    owner: nn.Module,
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    stride: int,
    silu: bool,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """As `convolved`, by a filter that is laid out like that of a convolution which it `serves`, and that is kept beside its owner."""
    out = _new(x, len(weight), stride) if out is None else out
    if two_kernels.are_faster(x, weight, stride, out):
        two_kernels.convolve(owner, weight, bias, x, stride, silu, residual, out)
    else:
        _run(x, weight, bias, stride, silu, residual, out)
    return out


def _new(x: Tensor, channels: int, stride: int = 1) -> Tensor:
    size = (x.shape[0], channels, *((pixels - 1) // stride + 1 for pixels in x.shape[2:]))
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _is_plain(conv: Any) -> bool:
    """A square convolution with a bias that, but for its stride, keeps the size, and whose call nobody hears."""
    return (
        type(conv) is nn.Conv2d
        and conv.bias is not None
        and conv.kernel_size == (conv.kernel_size[0],) * 2
        and conv.kernel_size[0] % 2 == 1
        and conv.padding == (conv.kernel_size[0] // 2,) * 2
        and conv.dilation == (1, 1)
        and conv.stride in ((1, 1), (2, 2))
        and conv.padding_mode == "zeros"
        and not is_heard(conv)
    )


def _is_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels == conv.out_channels and conv.stride == (1, 1)


def _taps_of(conv: nn.Conv2d) -> Tensor:
    """(side, side, channels): its filters with the channels of each tap side by side, as its input has them."""

    def make() -> tuple[Tensor]:
        return (conv.weight[:, 0].permute(1, 2, 0).contiguous(),)

    return made_from(conv, "taps", [conv.weight], make)[0]


def _is_known(act: nn.Module | None) -> bool:
    return act is None or (type(act) in (nn.SiLU, nn.Identity) and not is_heard(act))


def takes(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the kernel convolves this x, as it lies, by this filter."""
    return torch.ops.yolov12_kernels.is_fused_conv(x, weight, stride)


def _takes_depthwise(x: Tensor, side: int) -> bool:
    return torch.ops.yolov12_kernels.is_fused_depthwise(x, side)


def _run_depthwise(x: Tensor, taps: Tensor, bias: Tensor, silu: bool, residual: Tensor | None, out: Tensor) -> None:
    torch.ops.yolov12_kernels.fused_depthwise(x, taps, bias, silu, residual, out, BEGINS_EARLY)


def _run(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, silu: bool, residual: Tensor | None, out: Tensor
) -> None:
    torch.ops.yolov12_kernels.fused_conv(x, weight, bias, stride, silu, residual, out, None, BEGINS_EARLY)
