# SPDX-License-Identifier: AGPL-3.0-or-later
"""A convolution in inference with all that follows it in one kernel of ours (docker/kernels/fused_conv.h): bias, SiLU, and the sum of a shortcut.

`convolved` is for those who have such a convolution; where the kernel does not take it, or its input, they get None and do it another way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolov12.model.fused.norm import kernels_missing

BEGINS_EARLY = False
"""Whether the kernel comes onto the GPU while the one before it still runs, where the GPU can. Its answers are the same."""


def is_undisturbed(x: Tensor) -> bool:
    """Whether this is a plain call in inference on a GPU with our kernels: nothing is recorded, traced, compiled or cast."""
    if not x.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return not torch.is_autocast_enabled("cuda") and kernels_missing(x.device) is None


def serves(conv: nn.Module, act: nn.Module | None, x: Tensor) -> bool:
    """Whether act(conv(x)) is one kernel, for an `x` that `is_undisturbed`."""
    return _is_plain(conv) and _is_known(act) and x.dtype is conv.weight.dtype and takes(x, conv.weight, conv.stride[0])


def convolved(
    conv: nn.Module, act: nn.Module | None, x: Tensor, residual: Tensor | None = None, out: Tensor | None = None
) -> Tensor | None:
    """residual + act(conv(x)), rounded once; None where the kernel does not serve.

    Args:
        conv: of any kind; served are those of 1 or 3 pixels, stride 1 or 2, one group, with a bias.
        act: SiLU and Identity are served; None is Identity.
        x: (images, channels, height, width), channels_last or some channels of such a tensor; one that `is_undisturbed`.
        residual: like the output, which it is added to. It may be some channels as well.
        out: where the output goes, some channels of a concatenation say; a new channels_last tensor by default.
    """
    if not serves(conv, act, x):
        return None
    return convolved_by(conv.weight, conv.bias, x, conv.stride[0], type(act) is nn.SiLU, residual, out)


def convolved_by(
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    stride: int,
    silu: bool,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """As `convolved`, by a filter that is laid out like that of a convolution which it `serves`."""
    if out is None:
        size = (x.shape[0], len(weight), *((pixels - 1) // stride + 1 for pixels in x.shape[2:]))
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    _run(x, weight, bias, stride, silu, residual, out)
    return out


def _is_plain(conv: nn.Module) -> bool:
    return (
        type(conv) is nn.Conv2d
        and conv.bias is not None
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.kernel_size in ((1, 1), (3, 3))
        and conv.padding == (conv.kernel_size[0] // 2,) * 2
        and conv.stride in ((1, 1), (2, 2))
        and conv.padding_mode == "zeros"
        and not is_heard(conv)
    )


def _is_known(act: nn.Module | None) -> bool:
    return act is None or (type(act) in (nn.SiLU, nn.Identity) and not is_heard(act))


def is_heard(module: nn.Module) -> bool:
    """Whether somebody hooked himself onto its calls, which must then take place."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def takes(x: Tensor, weight: Tensor, stride: int) -> bool:
    """Whether the kernel convolves this x, as it lies, by this filter."""
    return torch.ops.yolov12_kernels.is_fused_conv(x, weight, stride)


def _run(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, silu: bool, residual: Tensor | None, out: Tensor
) -> None:
    torch.ops.yolov12_kernels.fused_conv(x, weight, bias, stride, silu, residual, out, None, BEGINS_EARLY)
